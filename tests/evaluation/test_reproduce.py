"""`m2ib reproduce`: plans without a network, and each table end to end on a small copy of its data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pandas as pd
import pytest

from m2ib_lightning import AttributionStore
from m2ib_lightning.cli import main
from m2ib_lightning.data import FirstPairs, ImageNetS, RefCOCO
from m2ib_lightning.data.pairs import GivenPairs, read_pair
from m2ib_lightning.data.truth import draw
from m2ib_lightning.evaluation import published
from m2ib_lightning.evaluation.published import load_table, speed, table_names
from m2ib_lightning.methods import GradCAM, GradECLIP
from tests.checkpoints import random_clip
from tests.evaluation.formats import MAKE, conceptual_captions, picture
from tests.evaluation.hub import Hub

QUICK = "legrad-imagenet-s"


@pytest.fixture(autouse=True)
def setting(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(published, "speed", lambda: 0.5)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(random_clip(tmp_path_factory.mktemp("model")))


def reproduce(table: str, folder: Path, model: str, *more: str) -> Path:
    """Run a table on its small copy, which is made if it is not there; returns the folder of results."""
    if not (folder / "data").exists():
        MAKE[table](folder / "data")
    arguments = ["--data", str(folder / "data"), "--model", model, "--pairs", "3", "--yes"]
    main(["reproduce", table, *arguments, "--output", str(folder / "out"), *more])
    return folder / "out"


def refused(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as left:
        main(["reproduce", *arguments])
    said = capsys.readouterr().err.strip().splitlines()
    assert left.value.code == 2 and len(said) == 1
    return said[0]


def test_the_speed_of_a_machine_is_operations_in_a_second(monkeypatch):
    clock = iter([0.0, 0.1, 0.2, 0.3, 0.4])  # at the start, and before each product and the end
    monkeypatch.setattr(published, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert speed() == pytest.approx(3 * 2 * 1024 * 768 * 3072 / 0.4 / 1e12)


def test_every_table_is_listed_and_has_a_small_copy(capsys):
    main(["reproduce", "--list"])
    said = capsys.readouterr().out
    assert all(name in said for name in table_names()) and set(table_names()) == set(MAKE)


@pytest.mark.parametrize("name", table_names())
def test_a_plan_says_model_data_size_licence_time_and_source_and_does_nothing(name, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = load_table(name)
    if table.data is None:
        said = capsys.readouterr().out + refused(capsys, name, "--pairs", "100")
        assert "Expected --data FOLDER" in said and "FOLDER holds" in said
    else:
        main(["reproduce", name, "--pairs", "100"])
        said = capsys.readouterr().out
        assert f"the first 100 of {table.data}" in said and table.model in said and table.data_note.strip() in said
        assert f"about {round(100 * table.teraflop / 0.5 / 60)} minutes on this machine" in said
        assert table.source in said and said.splitlines()[-1] == "Nothing was done. Add --yes to begin."
    assert not list(tmp_path.iterdir())


def test_no_value_is_printed_that_is_not_in_the_table_and_methods_that_have_one_are_run_or_slow():
    for table in map(load_table, table_names()):
        assert set(table.published) <= {*table.methods, *table.slow}
        assert table.published or "not recorded here" in table.source


def check(out: Path, name: str) -> pd.DataFrame:
    """The page and the file of a run hold what its scores say, beside what was published."""
    table, page = load_table(name), (out / "reproduction.html").read_text()
    rows = pd.read_csv(out / "reproduction.csv")
    for protocol in table.protocols:
        scores = pd.read_parquet(out / protocol / "pairs.parquet")
        assert scores.groupby("method")["id"].nunique().eq(3).all()
        means = scores.groupby("method").mean(numeric_only=True)
        of = rows[(rows["protocol"] == protocol) & rows["ours"].notna()]
        assert set(of["method"]) >= set(table.methods)
        for row in of.itertuples():
            assert row.ours == pytest.approx(means.loc[row.method, row.metric], nan_ok=True)
            assert row.low <= row.ours <= row.high
    printed = rows[rows["published"].notna() & rows["ours"].notna()]
    assert (printed["difference"] - (printed["ours"] - printed["published"])).abs().max() < 1e-9 or printed.empty
    for method, values in table.published.items():
        assert all(f"<td>{value:g}<td" in page for value in values.values()), method
    assert all(reason[:40].split("'")[0] in page for reason in table.why) and "data:image/png" in page
    return rows


@pytest.mark.slow
def test_a_table_ends_with_a_page_of_ours_and_published_from_a_local_folder(tmp_path, model, capsys):
    rows = check(reproduce(QUICK, tmp_path, model), QUICK)
    assert rows["published"].isna().all() and "reproduction.html" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in table_names() if name != QUICK])
def test_every_other_table_does_too(name, tmp_path, model):
    check(reproduce(name, tmp_path, model), name)


def test_under_a_second_protocol_each_method_is_scored_by_its_own_maps(tmp_path, model, monkeypatch):
    table = load_table(QUICK)
    methods = {label: table.methods[label] for label in ("GradCAM", "GradECLIP")}
    printed = {"GradCAM": {"image/PointingGame": 0.5}}
    two = replace(table, methods=methods, protocols=["as_released", "corrected"], published=printed)
    monkeypatch.setattr(published, "load_table", lambda name: two)
    out = reproduce(QUICK, tmp_path, model)
    for pair in AttributionStore(out / "corrected" / "GradCAM" / "attributions").ids():
        maps = {
            (p, m): AttributionStore(out / p / m / "attributions")[pair].image_map
            for p in two.protocols
            for m in methods
        }
        for method in methods:
            assert np.array_equal(maps["corrected", method], maps["as_released", method])
        assert not np.array_equal(maps["corrected", "GradCAM"], maps["corrected", "GradECLIP"])
    rows = pd.read_csv(out / "reproduction.csv")
    assert set(rows[rows["published"].notna()]["protocol"]) == {"as_released"}


def test_the_page_shows_the_first_four_pairs_and_slow_methods_wait_to_be_asked_for(tmp_path, model, monkeypatch):
    table = load_table("nib-cc")
    quick = load_table(QUICK).methods
    one, slow = ({name: quick[name]} for name in ("GradCAM", "GradECLIP"))
    few = replace(table, methods=one, slow=slow, metrics=table.metrics[:1])
    monkeypatch.setattr(published, "load_table", lambda name: few)
    conceptual_captions(tmp_path / "data", 6)
    page = reproduce("nib-cc", tmp_path, model, "--pairs", "6") / "reproduction.html"
    assert [i for i in range(6) if f"a dog near a tree {i}" in page.read_text()] == [0, 1, 2, 3]
    assert "GradECLIP" not in set(pd.read_csv(page.with_name("reproduction.csv"))["method"])


@pytest.mark.slow
def test_a_killed_table_goes_on_and_explains_nothing_twice(tmp_path, model, monkeypatch):
    asked = []
    relevance = GradECLIP.relevance
    monkeypatch.setattr(GradECLIP, "relevance", lambda s, o: (asked.append(len(o.clean)), relevance(s, o))[1])

    def killed(self, objective):
        raise KeyboardInterrupt

    with monkeypatch.context() as while_killed:
        while_killed.setattr(GradCAM, "relevance", killed)
        with pytest.raises(SystemExit):
            reproduce(QUICK, tmp_path, model)
    assert asked == [3] and not (tmp_path / "out" / "reproduction.html").exists()
    check(reproduce(QUICK, tmp_path, model), QUICK)
    assert asked == [3]


def test_a_missing_picture_is_passed_over_and_said_and_other_pairs_are_refused_by_their_hash(tmp_path, model, capsys):
    MAKE[QUICK](tmp_path / "data")
    first = sorted((tmp_path / "data").rglob("*.JPEG"))[0]
    masks = first.parents[2] / "validation-segmentation" / first.parent.name
    (masks / f"{first.stem}.png").unlink()
    found = FirstPairs(ImageNetS(str(tmp_path / "data/ImageNetS919"), str(tmp_path / "data/LOC_synset_mapping.txt")), 9)
    assert found.count() == 2 and [bad.id for bad in found.bad] == [first.stem]
    assert f"{first.stem}.png" in found.bad[0].error
    (tmp_path / "out").mkdir()
    there = {"table": QUICK, "pairs": 2, "digest": "0" * 16}
    (tmp_path / "out" / "pairs.json").write_text(json.dumps(there))
    arguments = (QUICK, "--data", str(tmp_path / "data"), "--model", model, "--yes", "--output", str(tmp_path / "out"))
    assert f"(2 with the hash {'0' * 16}) but got 2 with {found.digest}. Remedy" in refused(capsys, *arguments)
    for file in (tmp_path / "data").rglob("*.JPEG"):
        file.write_bytes(b"no picture")
    assert "Expected pairs that can be read but got none of 3" in refused(capsys, *arguments)


def test_the_hash_of_pairs_follows_their_pictures_and_not_the_time_of_their_files(tmp_path):
    for folder in ("a", "b"):
        MAKE["m2ib-ms-cxr"](tmp_path / folder)
    (changed,) = list((tmp_path / "b").rglob("1-d-f.jpg"))
    os.utime(changed, (1, 1))

    def digest(folder):
        made = load_table("m2ib-ms-cxr").reading(str(tmp_path / folder))["dataset"]["init_args"]
        from m2ib_lightning.data import MSCXR

        return FirstPairs(MSCXR(**made), 9).digest

    before = digest("b")
    assert len(before) == 16
    texts = (FirstPairs(GivenPairs(str(changed), text), 9).digest for text in ("a cat", "a dog"))
    assert len(set(texts)) == 2
    changed.write_bytes(picture(77))
    assert digest("b") != before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nix",), "Expected a table of adaib-refcoco, .* but got nix. Remedy"),
        (("m2ib-ms-cxr", "--data", "here"), "Expected --model FOLDER, since it is on no hub"),
        ((QUICK, "--pairs", "0"), "Expected `pairs` to be at least 1 but got 0"),
        ((QUICK, "--data", "nowhere", "--model", "embedded", "--yes"), "a folder for each class in nowhere"),
    ],
)
def test_what_is_missing_is_said_in_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    import re

    monkeypatch.chdir(tmp_path)
    assert re.search(message, refused(capsys, *arguments))


def test_an_expression_of_refcoco_is_a_pair_with_the_outline_of_its_object(tmp_path):
    MAKE["adaib-refcoco"](tmp_path / "data")
    pairs = [read_pair(pair) for pair in RefCOCO(str(tmp_path / "data"), "val")]
    assert [(pair.id, pair.text) for pair in pairs] == [
        ("469306-0", "the dog"),
        ("469307-0", "the dog"),
        ("469307-1", "dog left"),
        ("469308-0", "the dog"),
    ]
    mask = pairs[0].truth.mask
    assert mask.shape == (36, 48) and mask[7:15, 5:19].all() and not mask[:5].any() and not mask[18:].any()
    for pair in pairs:  # all of an expression is what its object is called
        (part,) = pair.truth.parts
        assert part.span == (0, len(pair.text)) and (part.mask == pair.truth.mask).all()


def test_pictures_of_imagenet_s_come_class_by_class_with_the_pixels_of_their_class_alone(tmp_path):
    MAKE[QUICK](tmp_path)
    source = ImageNetS(str(tmp_path / "ImageNetS919"), str(tmp_path / "LOC_synset_mapping.txt"))
    pairs = [read_pair(pair) for pair in source]
    assert [pair.text for pair in pairs] == ["a photo of a goldfish.", "a photo of a dog.", "a photo of a goldfish."]
    for pair in pairs:
        assert (pair.truth.mask == draw((4, 6, 20, 16), (48, 36))).all()


def typed(folder: Path, *more: str, **settings: str) -> subprocess.CompletedProcess:
    """The command as a program of its own, which reads its hub's address when it starts."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    words = ["reproduce", "nib-flickr8k", "--pairs", "3", "--yes", "--output", str(folder / "out"), *more]
    return subprocess.run(
        [sys.executable, "-m", "m2ib_lightning", *words],
        env={**kept, "HF_HOME": str(folder / "home"), "NO_PROXY": "127.0.0.1", **settings},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_model_and_pairs_come_from_the_hub_and_then_from_its_cache_and_a_folder(tmp_path):
    pairs = tmp_path / "hub/datasets/jxie/flickr8k"
    pairs.parent.mkdir(parents=True)
    MAKE["nib-flickr8k"](pairs)
    random_clip(tmp_path / "hub/models/openai/clip-vit-base-patch32")
    with Hub(tmp_path / "hub") as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        done = typed(tmp_path, HF_HUB_OFFLINE="0", HF_ENDPOINT=hub.address)
        hub.shutdown()
    assert done.returncode == 0, done.stderr[-2000:]
    check(tmp_path / "out", "nib-flickr8k")
    parts = sorted((tmp_path / "out").rglob("part-*"))
    again = typed(tmp_path, "--data", str(pairs), HF_HUB_OFFLINE="1")
    assert again.returncode == 0, again.stderr[-2000:]
    assert sorted((tmp_path / "out").rglob("part-*")) == parts  # the same pairs: nothing is explained again
