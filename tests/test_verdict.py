import copy
from dataclasses import FrozenInstanceError, astuple, fields, replace

import numpy as np
import pytest
import torch

from m2ib_lightning import M2IB, Attribution, load_backbone
from m2ib_lightning.backbones import Backbone
from m2ib_lightning.data import make_scene
from m2ib_lightning.methods import mismatched as kept
from m2ib_lightning.methods.mismatched import match_scores, mismatched
from m2ib_lightning.types import Pair
from m2ib_lightning.verdict import (
    SENTENCES,
    VERDICTS,
    Thresholds,
    check_thresholds,
    headline,
    is_difference,
    is_doubtful,
    judge,
)


def believable(**changed) -> Attribution:
    """A result against which nothing speaks."""
    a = Attribution(
        id="a", text="a cat", image_map=np.full((2, 2), 20, np.float32), text_map=np.full(2, 20, np.float32),
        tokens=["a", "cat"], special=np.zeros(2, bool), spans=[(0, 1), (2, 5)], score=0.5, image_score=0.45,
        text_score=0.5, image_match=3.0, text_match=4.0, stop_reason="max_steps",
        history={"loss/total": np.array([1.0, 0.2, 0.19], np.float32)}, settings={"modalities": ["image", "text"]},
    )  # fmt: skip
    return replace(a, **changed)


@pytest.mark.parametrize(
    ("changed", "image", "text"),
    [
        ({}, "ok", "ok"),
        ({"stop_reason": "non_finite", "image_map": None, "text_map": None}, "not_finite", "not_finite"),
        ({"score": float("nan")}, "not_finite", "not_finite"),
        ({"image_match": 1.4}, "no_match", "no_match"),
        ({"text_match": 1.4, "image_score": 0.0}, "no_match", "no_match"),
        ({"image_score": 0.04}, "similarity_lost", "ok"),
        ({"text_score": 0.24}, "ok", "similarity_lost"),
        ({"image_score": 0.06, "text_score": 0.25}, "ok", "ok"),  # a tenth of 0.5 and half of it are just enough
        ({"text_map": np.full(2, 4.9, np.float32)}, "ok", "uninformative"),
        ({"text_map": np.full(2, 0.1, np.float32), "unit": "cos"}, "ok", "ok"),
        # Of a difference, whose similarity through the bottleneck is none, a fifth of the nats is enough.
        ({"text_map": np.full(2, 1.1, np.float32), "text_score": float("nan")}, "ok", "ok"),
        ({"text_map": np.full(2, 0.9, np.float32), "text_score": float("nan")}, "ok", "uninformative"),
        ({"history": {"loss/total": np.array([1.0, 0.5, 0.2], np.float32)}}, "not_converged", "not_converged"),
        ({"stop_reason": "diverged"}, "not_converged", "not_converged"),
        ({"image_score": float("nan"), "text_score": float("nan")}, "ok", "ok"),  # a method without a bottleneck
    ],
)
def test_a_verdict_is_the_first_reason_that_holds_in_a_modality(changed, image, text):
    a = believable(**changed)
    assert a.verdicts == {"image": image, "text": text}
    assert a.verdict == min((image, text), key=lambda v: (v == "ok", VERDICTS.index(v)))


def falling(*loss: float) -> dict:
    return {"loss/total": np.array(loss, np.float32)}


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({"image_match": 1.5, "text_match": 1.5}, "ok"),
        ({"image_score": 0.05}, "ok"),  # a tenth of 0.5
        ({"image_map": np.full((2, 2), 5, np.float32)}, "ok"),
        ({"image_map": np.full((2, 2), 1, np.float32), "image_score": float("nan")}, "ok"),
        ({"image_map": np.array([[20, np.inf]], np.float32)}, "not_finite"),
        ({"stop_reason": "interrupted"}, "not_converged"),
        ({"history": {}}, "ok"),
        ({"history": falling(1.0)}, "ok"),  # a single step tells nothing
        ({"history": falling(1.0, 0.0)}, "not_converged"),
        ({"history": falling(1.0, 0.0), "stop_reason": "converged"}, "ok"),
        ({"history": falling(1.0, 0.0), "settings": {"modalities": ["image"], "keep": 0.9}}, "ok"),
        ({"history": falling(0.010, 0.004, 0.0)}, "not_converged"),  # however little that is
        ({"history": falling(1.0, 1.0, 1.0)}, "ok"),
        ({"history": falling(1.0, 0.25, 0.0)}, "not_converged"),
        ({"history": falling(1.0, 0.125, 0.0)}, "ok"),
        ({"history": falling(1.0, -0.5, 0.5)}, "ok"),  # it rose
        (  # just at the limit
            {
                "history": falling(1.0, 0.25, 0.0),
                "settings": {"modalities": ["image"], "thresholds": {"falling": 0.25}},
            },
            "ok",
        ),
        ({"settings": {"modalities": ["image"], "keep": 0.94}}, "ok"),  # 0.9 is left, and 0.94 - 0.05 is enough
        ({"settings": {"modalities": ["image"], "keep": 0.95001}}, "similarity_lost"),
    ],
)
def test_each_reason_begins_at_its_threshold(changed, verdict):
    assert judge(believable(**changed), "image") == verdict


def test_thresholds_are_those_that_are_documented_and_nobody_changes_them_behind_a_result():
    assert astuple(Thresholds()) == (1.5, 0.1, 0.5, 0.05, 5.0, 0.2)
    with pytest.raises(FrozenInstanceError):
        Thresholds().match = 0.0
    every = {field.name: 0.0 for field in fields(Thresholds)}
    assert check_thresholds(every) == Thresholds(0, 0, 0, 0, 0, 0) and check_thresholds(None) == Thresholds()


def test_a_map_that_was_not_asked_for_is_in_no_doubt():
    bad = believable(settings={"modalities": ["text"]}, image_match=0.0)
    assert is_doubtful(bad, "text") and not is_doubtful(bad, "image")
    assert not is_doubtful(believable(), "image")
    assert is_difference(believable(image_score=float("nan")), "image") and not is_difference(believable(), "image")
    assert headline(bad) == "Doubtful: no match" == headline(believable(image_match=0.0))


def test_a_user_moves_a_threshold_for_a_run_or_for_one_look():
    strict = believable(settings={"modalities": ["image", "text"], "thresholds": {"image_left": 0.95}})
    assert strict.verdicts == {"image": "similarity_lost", "text": "ok"}
    assert judge(believable(), "image", Thresholds(match=3.5)) == "no_match"
    lost = believable(settings={"modalities": ["image"], "keep": 0.96})
    assert lost.verdicts == {"image": "similarity_lost"}  # 0.9 is left where 0.96 - 0.05 is asked for
    with pytest.raises(ValueError, match=r"`thresholds` to name some of .* but got lift"):
        M2IB(thresholds={"lift": 1.0})


def test_a_verdict_is_said_with_the_map_that_it_is_about():
    assert headline(believable()) == "ok"
    assert headline(believable(image_score=0.0)) == "Doubtful: similarity lost (picture)"
    assert headline(believable(text_score=0.0)) == "Doubtful: similarity lost (caption)"
    assert headline(believable(image_match=0.0)) == "Doubtful: no match"
    assert "; Doubtful: no match)" in repr(believable(image_match=0.0)) and repr(believable()).endswith("; ok)")


def test_each_verdict_has_a_sentence_and_all_but_ok_a_remedy():
    assert set(SENTENCES) == set(VERDICTS)
    assert all(("Remedy: " in sentence) == (verdict != "ok") for verdict, sentence in SENTENCES.items())


@pytest.fixture(scope="module")
def embedded() -> Backbone:
    return load_backbone("embedded")


def test_match_scores_are_those_of_a_slow_float64_loop(embedded):
    scenes = [make_scene(seed) for seed in (1, 2)]
    batch = embedded.preprocess([s.image for s in scenes], [s.text for s in scenes])
    image, text = (embedded.embed(m, batch).double().numpy() for m in ("image", "text"))
    found = match_scores(embedded, torch.tensor(image), torch.tensor(text))
    others = mismatched(embedded)
    for b in range(2):
        own = image[b] @ text[b] / np.linalg.norm(image[b]) / np.linalg.norm(text[b])
        for name, mine, theirs in (("image_match", image[b], others.text), ("text_match", text[b], others.image)):
            similar = [float(mine @ t) / np.linalg.norm(mine) / np.linalg.norm(t) for t in theirs.double().numpy()]
            assert found[name][b] == pytest.approx((own - np.mean(similar)) / np.std(similar, ddof=1), rel=1e-4)


@pytest.mark.slow
def test_what_belongs_together_is_told_from_what_does_not(embedded):
    scenes = [make_scene(seed) for seed in range(40, 52)]
    shown = [{thing.name for thing in scene.objects} for scene in scenes]
    captions = [next(s.text for s in scenes if not {o.name for o in s.objects if o.named} & n) for n in shown]
    right = [Pair(f"right {i}", s.image, s.text) for i, s in enumerate(scenes)]
    wrong = [Pair(f"wrong {i}", s.image, c) for i, (s, c) in enumerate(zip(scenes, captions, strict=True))]
    found = M2IB(embedded, noise_samples=2).attribute(embedded.preprocess_pairs(right + wrong))
    unmatched = [a.verdict == "no_match" for a in found]
    assert sum(unmatched[:12]) <= 1 and sum(unmatched[12:]) >= 11


def test_mismatched_pairs_of_two_models_are_kept_apart(embedded, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(kept, "_known", {})
    other = copy.deepcopy(embedded)
    other.__dict__.pop("weight_hash", None)
    with torch.no_grad():
        for weight in other.model.parameters():
            weight.mul_(0.5)
    first = mismatched(embedded)
    assert not torch.allclose(mismatched(other).text, first.text, atol=1e-3)


def test_what_is_kept_of_mismatched_pairs_is_made_again_when_damaged(embedded, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(kept, "_known", {})
    first = mismatched(embedded)
    (path,) = tmp_path.rglob("*-mismatched-*.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 0x7F  # the exponent of the last value
    path.write_bytes(content)
    kept._known.clear()
    torch.testing.assert_close(mismatched(embedded).text, first.text)
