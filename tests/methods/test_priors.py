"""Priors are measured once and kept; what cannot be trusted is measured again, and said in one line."""

import copy
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from m2ib_lightning import load_backbone
from m2ib_lightning.data import make_scene
from m2ib_lightning.methods import priors
from m2ib_lightning.methods.priors import about, default_layer, find_priors
from m2ib_lightning.prior import Prior, write_priors

LAYERS = {"image": 1}


@pytest.fixture(scope="module")
def backbone():
    return load_backbone("embedded")


@pytest.fixture
def cache(tmp_path, monkeypatch, backbone):
    """An empty cache, and priors over two scenes instead of 64."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    scenes = [make_scene(i) for i in range(2)]
    batch = backbone.preprocess([s.image for s in scenes], [s.text for s in scenes])
    monkeypatch.setattr(priors, "scene_batches", lambda _: [batch])
    return tmp_path / "m2ib_lightning" / "priors"


@pytest.fixture
def measured(monkeypatch) -> list:
    """The layers that were measured, not read."""
    asked, original = [], priors.measure_over
    monkeypatch.setattr(priors, "measure_over", lambda b, d, layers: asked.append(layers) or original(b, d, layers))
    return asked


def assert_same(one: Prior, other: Prior) -> None:
    for part in ("mean", "std", "read_mean"):
        torch.testing.assert_close(getattr(one, part), getattr(other, part), rtol=0, atol=0)


def test_a_prior_is_measured_once_and_read_after_that(cache, measured, backbone):
    first = find_priors(backbone, "measured", LAYERS)["image"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(find_priors(backbone, "measured", LAYERS)["image"], first)
    assert measured == [LAYERS] and len(list(cache.iterdir())) == 1


def test_every_layer_and_tower_has_a_prior_of_its_own(cache, measured, backbone):
    asked = [{"image": 1}, {"image": 2}, {"text": 1}, {"text": "embeddings"}]
    first = [find_priors(backbone, "measured", layers) for layers in asked]
    again = [find_priors(backbone, "measured", layers) for layers in asked]
    assert measured == asked and len(list(cache.iterdir())) == 4
    assert not torch.equal(first[0]["image"].mean, first[1]["image"].mean)
    for one, other, layers in zip(first, again, asked, strict=True):
        assert_same(one[next(iter(layers))], other[next(iter(layers))])


def test_priors_of_two_models_stand_side_by_side(cache, measured, backbone):
    other = copy.deepcopy(backbone)
    other.__dict__.pop("weight_hash", None)
    with torch.no_grad():
        for weight in other.model.parameters():
            weight.mul_(0.5)
    found = [find_priors(model, "measured", LAYERS)["image"] for model in (backbone, other, backbone, other)]
    assert len(measured) == len(list(cache.iterdir())) == 2
    assert_same(found[0], found[2])
    assert_same(found[1], found[3])
    assert not torch.equal(found[0].mean, found[1].mean)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[-100] ^= 64
    path.write_bytes(whole)


def rewrite(path: Path, **changes) -> None:
    """Values of the caller's choice under the old metadata."""
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as file:
        said = file.metadata()
    save_file(load_file(path) | changes, path, metadata=said)


def alter(path: Path) -> None:
    rewrite(path, **{"image.std": torch.full((48,), 1e-6)})


@pytest.mark.parametrize("damage", [cut, empty, flip, alter], ids=lambda f: f.__name__)
def test_a_kept_prior_that_is_damaged_is_measured_again_with_one_line(damage, cache, measured, backbone):
    first = find_priors(backbone, "measured", LAYERS)["image"]
    (file,) = cache.iterdir()
    damage(file)
    with pytest.warns(UserWarning, match=rf"^Expected priors .*{file}.* It is measured again now\.$") as said:
        assert_same(find_priors(backbone, "measured", LAYERS)["image"], first)
    assert len(said) == 1 and "\n" not in str(said[0].message)
    assert_same(find_priors(backbone, "measured", LAYERS)["image"], first)
    assert len(measured) == 2


@pytest.mark.parametrize(
    ("part", "value"),
    [("std", float("nan")), ("mean", float("inf")), ("std", 0.0), ("std", -1.0)],
)
def test_a_file_of_values_that_cannot_be_is_refused(part, value, tmp_path, backbone):
    width = backbone.tower("image").width
    prior = Prior(torch.zeros(width), torch.ones(width), torch.zeros(width))
    getattr(prior, part)[3] = value
    write_priors(tmp_path / "p", {"image": prior}, **about(backbone, LAYERS))
    with pytest.raises(ValueError, match=r"'.*/p' holds values that are not finite, or .*not positive. Remedy: "):
        find_priors(backbone, str(tmp_path / "p"), LAYERS)


def test_priors_of_another_model_layer_tower_or_width_are_refused(tmp_path, backbone):
    width = backbone.tower("image").width
    said = about(backbone, LAYERS)
    one = Prior(torch.zeros(width), torch.ones(width), torch.zeros(width))
    narrow = Prior(torch.zeros(3), torch.ones(3), torch.zeros(3))
    for name, found, changes in [
        ("weights", {"image": one}, {"weights": "other"}),
        ("image_layer", {"image": one}, {"image_layer": "2"}),
        ("image width", {"image": narrow}, {}),
        ("image width", {"text": one}, {}),
    ]:
        write_priors(tmp_path / "p", found, **said | changes)
        with pytest.raises(ValueError, match=rf"says {{'{name}'.*Remedy: run `m2ib calibrate`"):
            find_priors(backbone, str(tmp_path / "p"), LAYERS)
    write_priors(tmp_path / "p", {"image": one, "text": narrow}, **said)
    assert_same(find_priors(backbone, str(tmp_path / "p"), LAYERS)["image"], one)


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs the permissions of Unix")
def test_a_cache_that_anybody_can_write_is_not_believed(cache, measured, backbone):
    find_priors(backbone, "measured", LAYERS)
    assert cache.stat().st_mode & 0o077 == 0
    cache.chmod(0o777)
    with pytest.warns(UserWarning, match=r"writable by its user alone. Remedy: chmod go-w"):
        find_priors(backbone, "measured", LAYERS)
    assert len(measured) == 2


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path, monkeypatch, cache, measured, backbone):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for _ in range(2):
        find_priors(backbone, "measured", LAYERS)
    assert len(measured) == 2


@pytest.mark.slow
def test_processes_that_measure_at_once_leave_one_whole_file(tmp_path):
    program = (
        "from m2ib_lightning import load_backbone\n"
        "from m2ib_lightning.methods.priors import find_priors\n"
        "print(find_priors(load_backbone('embedded'), 'measured', {'image': 1})['image'].mean.double().sum().item())\n"
    )
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-W", "error::UserWarning", "-c", program]
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = {process.communicate(timeout=200)[0] for process in running}
    assert [process.returncode for process in running] == [0, 0, 0] and len(said) == 1
    assert len(list((tmp_path / "m2ib_lightning" / "priors").iterdir())) == 1


def test_a_model_that_nothing_is_kept_of_is_said_once_to_gain_by_calibrating(cache, backbone, monkeypatch, caplog):
    find_priors(backbone, "measured", {"image": 2})
    assert not caplog.records  # the embedded model is what the defaults were chosen on
    for file in cache.iterdir():
        file.unlink()
    monkeypatch.setattr(backbone, "name", "mine")
    find_priors(backbone, "measured", {"image": 1, "text": "embeddings"})
    find_priors(backbone, "measured", {"image": 2})
    (said,) = caplog.messages
    assert re.fullmatch(r".* than mine; `m2ib calibrate` .*", said)


def test_where_a_bottleneck_sits_in_towers_of_any_depth():
    depths = (1, 2, 3, 4, 8, 12, 24)
    assert [default_layer("image", depth, "unit") for depth in depths] == [0, 0, 1, 2, 6, 9, 18]
    assert [default_layer("text", depth, "unit") for depth in depths] == [0, 0, 1, 2, 6, 9, 18]
    assert [default_layer("image", depth, "measured") for depth in depths] == [0, 0, 1, 2, 3, 4, 9]
    assert {default_layer("text", depth, "measured") for depth in depths} == {"embeddings"}


def test_the_scenes_that_stand_for_data_are_64_in_batches_of_16(monkeypatch):
    asked, batches = [], []

    def made(seed, **arguments):
        asked.append((seed, *arguments.values()))
        return SimpleNamespace(image=seed, text=str(seed))

    monkeypatch.setattr(priors, "make_scene", made)
    backbone = SimpleNamespace(preprocess=lambda images, texts: batches.append((images, texts)))
    assert len(list(priors.scene_batches(backbone))) == 4
    assert [images for images, _ in batches] == [list(range(900_000 + i, 900_016 + i)) for i in (0, 16, 32, 48)]
    assert [texts for _, texts in batches] == [[str(i) for i in images] for images, _ in batches]
    # As many objects and named ones as each in its turn.
    assert asked[:6] == [(900_000, 2, 1), (900_001, 3, 2), (900_002, 4, 1), (900_003, 2, 2), (900_004, 3, 1),
                         (900_005, 4, 2)]  # fmt: skip


def test_the_cache_is_the_users_own_and_moves_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert priors.cache_folder() == tmp_path / "m2ib_lightning" / "priors"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert priors.cache_folder() == tmp_path / "home" / ".cache" / "m2ib_lightning" / "priors"


def test_a_cache_is_made_for_its_user_alone_and_used_where_it_is_there(cache, measured, backbone):
    for layer in (1, 2):
        find_priors(backbone, "measured", {"image": layer})
        assert cache.stat().st_mode & 0o777 == 0o700
    assert {file.name for file in cache.iterdir()} == {
        f"{backbone.weight_hash}-image-{layer}-1.safetensors" for layer in (1, 2)
    }


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs the permissions of Unix")
def test_a_file_is_open_to_others_where_they_may_write_it_or_own_it(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.touch(0o600)
    tmp_path.chmod(0o755)
    assert not priors.is_open_to_others(file)
    for mode, others in ((0o664, False), (0o602, True), (0o601, False), (0o604, False)):
        file.chmod(mode)
        assert priors.is_open_to_others(file) == others
    file.chmod(0o600)
    found = SimpleNamespace(st_mode=0o100600, st_uid=7)
    stand_in = SimpleNamespace(
        stat=lambda: found, parent=SimpleNamespace(stat=lambda: SimpleNamespace(st_mode=0o40700, st_uid=0))
    )
    for user, others in ((7, False), (8, True)):
        monkeypatch.setattr(os, "getuid", lambda user=user: user)
        assert priors.is_open_to_others(stand_in) == others


def test_only_what_a_cache_lacks_is_measured_and_a_known_model_is_told_nothing(
    cache, measured, backbone, monkeypatch, caplog
):
    monkeypatch.setattr(backbone, "name", "mine")
    find_priors(backbone, "measured", {"image": 1})
    assert len(caplog.messages) == 1
    both = find_priors(backbone, "measured", {"image": 1, "text": 1})
    assert list(both) == ["image", "text"] and measured == [{"image": 1}, {"text": 1}] and len(caplog.messages) == 1


def test_the_unit_prior_is_0_and_1_for_each_channel_of_each_tower(backbone):
    found = find_priors(backbone, "unit", {"image": 1, "text": 0})
    assert {m: len(prior.std) for m, prior in found.items()} == {m: backbone.tower(m).width for m in ("image", "text")}
    assert all((prior.std == 1).all() and not prior.mean.any() for prior in found.values())
