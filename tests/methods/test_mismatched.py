"""What pairs are held against: kept once a model, and made again where it cannot be trusted."""

import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from m2ib_lightning.methods import mismatched as kept
from m2ib_lightning.methods.mismatched import Mismatched, match_scores, mismatched


class Model:
    """One whose scenes are embedded as given."""

    weight_hash = "abc"

    def embed(self, modality, batch):
        return batch[modality]


@pytest.fixture
def made(tmp_path, monkeypatch):
    """The batches that were embedded, an empty cache and two batches of scenes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked, batches = [], [{"image": torch.tensor([[3.0, 4.0]]), "text": torch.tensor([[0.0, 2.0]])}] * 2
    monkeypatch.setattr(kept, "scene_batches", lambda backbone: asked.append(backbone) or batches)
    return asked


def the_file(tmp_path):
    return tmp_path / "m2ib_lightning" / "priors" / "abc-mismatched-1.safetensors"


def test_scenes_are_embedded_once_a_model_and_read_from_the_cache_by_the_next(made, tmp_path):
    first, second = Model(), Model()
    found = mismatched(first)
    torch.testing.assert_close(found.image, torch.tensor([[0.6, 0.8]] * 2))
    torch.testing.assert_close(found.text, torch.tensor([[0.0, 1.0]] * 2))
    assert mismatched(first) is found and made == [first]
    torch.testing.assert_close(mismatched(second), found)
    assert made == [first] and the_file(tmp_path).is_file()
    assert the_file(tmp_path).parent.stat().st_mode & 0o777 == 0o700


def test_a_cache_whose_folders_are_there_is_used(made, tmp_path):
    the_file(tmp_path).parent.mkdir(parents=True, mode=0o700)
    mismatched(Model()), mismatched(Model())
    assert len(made) == 1


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(made, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert mismatched(Model()).image.shape == mismatched(Model()).image.shape == (2, 2) and len(made) == 2


def lengthen(path, by):
    found = load_file(path)
    found["text"] = found["text"].clone()
    found["text"][1] *= by
    save_file(found, path)


@pytest.mark.parametrize(
    ("damage", "again"),
    [
        (lambda path: lengthen(path, 1.0005), False),
        (lambda path: lengthen(path, 1.002), True),
        (lambda path: lengthen(path, 0.998), True),
        (lambda path: lengthen(path, float("nan")), True),
        (lambda path: path.write_bytes(path.read_bytes()[:-5]), True),
        (lambda path: save_file({"image": torch.ones(1, 1)}, path), True),
        (lambda path: path.chmod(0o606), True),
    ],
)
def test_what_is_damaged_or_open_to_others_is_made_again(damage, again, made, tmp_path):
    if os.name != "posix":
        pytest.skip("needs the permissions of Unix")
    mismatched(Model())
    damage(the_file(tmp_path))
    mismatched(Model())
    assert len(made) == 1 + again


def test_a_match_is_how_many_deviations_a_pair_stands_above_the_others(monkeypatch):
    # The image's cosines with the captions 1, 0 and -1 have mean 0 and deviation 1; the text's with the pictures are
    # all 0.6, whose deviation is taken as a millionth.
    others = Mismatched(torch.tensor([[1.0, 0.0]] * 3), torch.tensor([[1.0, 0], [0, 1], [-1, 0]]))
    monkeypatch.setattr(kept, "mismatched", lambda backbone: others)
    found = match_scores(None, torch.tensor([[5.0, 0.0]]), torch.tensor([[0.3, 0.4]]))
    assert found["image_match"] == pytest.approx([0.6]) and found["text_match"] == pytest.approx([0.0], abs=0.2)
    found = match_scores(None, torch.tensor([[0.0, 2.0]]), torch.tensor([[0.3, 0.4]]))
    # 0.8 among 0, 1 and 0, of mean 1/3 and deviation 1/sqrt(3); and 0.2 above 0.6 in millionths.
    assert found["image_match"] == pytest.approx([(0.8 - 1 / 3) * 3**0.5], rel=1e-4)
    assert found["text_match"] == pytest.approx([2e5], rel=1e-3)
