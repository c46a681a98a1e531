"""What every baseline keeps, whatever it computes."""

import inspect
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from m2ib_lightning import AttributionStore, explain, methods
from m2ib_lightning.backbones import load_backbone
from m2ib_lightning.cli import main
from m2ib_lightning.methods import AttributionMethod
from m2ib_lightning.methods.baselines.attention_rollout import AttentionRollout
from m2ib_lightning.methods.baselines.base import Baseline
from m2ib_lightning.methods.baselines.centre_prior import CentrePrior
from m2ib_lightning.methods.baselines.chefer import Chefer
from m2ib_lightning.methods.baselines.exclip import ExCLIP
from m2ib_lightning.methods.baselines.fixlip import FIxLIP
from m2ib_lightning.methods.baselines.grad_cam import GradCAM
from m2ib_lightning.methods.baselines.grad_eclip import GradECLIP
from m2ib_lightning.methods.baselines.integrated_gradients import IntegratedGradients
from m2ib_lightning.methods.baselines.kernel_shap import KernelSHAP
from m2ib_lightning.methods.baselines.le_grad import LeGrad
from m2ib_lightning.methods.baselines.nib import NIB
from m2ib_lightning.methods.baselines.occlusion import Occlusion
from m2ib_lightning.methods.baselines.random_map import RandomMap
from m2ib_lightning.methods.baselines.rise import RISE
from m2ib_lightning.methods.baselines.saliency import Saliency
from m2ib_lightning.methods.baselines.smooth_grad import SmoothGrad
from m2ib_lightning.methods.baselines.uniform_map import UniformMap

FAST = {
    RISE: {"samples": 20},
    KernelSHAP: {"samples": 80},
    FIxLIP: {"samples": 20},
    ExCLIP: {"steps": 3},
    SmoothGrad: {"samples": 3},
}
BASELINES = [
    kind
    for kind in (getattr(methods, name) for name in methods.__all__)
    if isinstance(kind, type) and issubclass(kind, Baseline) and kind is not Baseline
]


def make(kind, backbone, **arguments) -> AttributionMethod:
    return kind(backbone, **FAST.get(kind, {}), **arguments)


def test_all_seventeen_are_public():
    assert len(BASELINES) == 17


@pytest.mark.slow
@pytest.mark.parametrize("kind", BASELINES)
def test_maps_are_finite_and_of_the_models_shape(kind, backbone, pairs):
    results = make(kind, backbone).attribute(backbone.preprocess_pairs(pairs))
    for result, pair in zip(results, pairs, strict=True):
        assert result.id == pair.id and result.unit and result.settings["method"] == kind.__name__
        assert np.isfinite(result.image_map).all() and np.isfinite(result.text_map).all()
        assert result.image_map.shape == backbone.image.grid(backbone.preprocess_pairs([pair]))
        assert result.text_map.shape == (len(result.tokens),)
        # These cut negative values off, and on a random model that may be all of them.
        assert np.ptp(result.image_map) > 0 or kind in (methods.GradECLIP, methods.GradCAM, UniformMap)
        clean = [backbone.embed(m, backbone.preprocess_pairs([pair])) for m in ("image", "text")]
        assert result.score == pytest.approx(float(torch.cosine_similarity(*clean)), abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", BASELINES)
def test_a_pair_is_explained_the_same_in_any_batch(kind, backbone, pairs):
    method = make(kind, backbone)
    whole = method.attribute(backbone.preprocess_pairs(pairs))
    for index in (2, 0):
        alone = method.attribute(backbone.preprocess_pairs([pairs[index]]))[0]
        for name in ("image_map", "text_map"):
            a, b = getattr(alone, name), getattr(whole[index], name)
            # Single gradients at kinks of max(0, ...) and sums of many differences: float32 rounding, some of it grown.
            assert np.abs(a - b).max() <= 1e-3 * np.abs(b).max(), name


@pytest.mark.parametrize("kind", BASELINES)
def test_one_modality_alone_is_as_with_the_other_and_inference_mode_does_not_matter(kind, backbone, pairs):
    batch = backbone.preprocess_pairs(pairs[:1])
    both = make(kind, backbone).attribute(batch)[0]
    with torch.inference_mode():
        image = make(kind, backbone, modalities=["image"]).attribute(backbone.preprocess_pairs(pairs[:1]))[0]
    text = make(kind, backbone, modalities=["text"]).attribute(batch)[0]
    assert image.text_map is None and text.image_map is None
    np.testing.assert_allclose(image.image_map, both.image_map, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(text.text_map, both.text_map, rtol=1e-4, atol=1e-6)


def test_the_backbone_is_not_changed(backbone, pairs):
    before = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    for kind in BASELINES:
        make(kind, backbone).attribute(backbone.preprocess_pairs(pairs[:1]))
    for name, value in backbone.model.state_dict().items():
        assert torch.equal(value, before[name])
    for module in backbone.model.modules():
        assert not module.training and not module._forward_hooks and not module._forward_pre_hooks
    assert all(p.grad is None and not p.requires_grad for p in backbone.model.parameters())


def test_baselines_are_called_by_name(pairs):
    result = explain(pairs[0].image, pairs[0].text, method="gradcam")[0]
    assert result.settings["method"] == "GradCAM" and result.settings["image_layer"] == 6


def test_settings_hold_every_argument_and_a_seed_only_where_something_is_random(backbone, pairs):
    batch = backbone.preprocess_pairs(pairs[:1])
    made = {"modalities": ["image", "text"], "first_block": -1, "scale": 2.0}
    settings = Chefer(backbone, first_block=-1, scale=2.0).attribute(batch)[0].settings
    assert {name: settings[name] for name in settings if name not in ("method", "backbone", "weights")} == made
    assert json.loads(json.dumps(settings)) == settings
    seeded = {kind.__name__ for kind in BASELINES if "seed" in inspect.signature(kind).parameters}
    assert seeded == {"RISE", "KernelSHAP", "FIxLIP", "SmoothGrad", "RandomMap"}
    assert {kind.__name__ for kind in BASELINES if kind.control} == {"RandomMap", "CentrePrior", "UniformMap"}


def test_settings_are_the_same_from_python_and_from_a_configuration(tmp_path):
    main(["predict", "--model=Chefer", "--model.scale=2", "--data.scenes=1", f"--output={tmp_path}"])
    (result,) = AttributionStore(tmp_path / "attributions")
    method = Chefer("embedded", scale=2.0)
    method.prepare()
    assert result.settings == method.settings


def test_the_uniform_map_leaves_the_input_as_it_is(backbone, pairs):
    results = UniformMap(backbone).attribute(backbone.preprocess_pairs(pairs))
    assert all((a.image_map == 1).all() and (a.text_map == 1).all() for a in results)


def test_random_maps_differ_between_pairs_and_seeds_and_not_between_runs(backbone, pairs):
    batch = backbone.preprocess_pairs(pairs[:2])
    (a, b), (again, _), (other, _) = (RandomMap(backbone, seed=s).attribute(batch) for s in (0, 0, 1))
    np.testing.assert_array_equal(a.image_map, again.image_map)
    assert np.abs(a.image_map - b.image_map).max() > 0.1 and np.abs(a.image_map - other.image_map).max() > 0.1


def test_the_centre_prior_is_highest_in_the_middle(backbone, pairs):
    result = CentrePrior(backbone).attribute(backbone.preprocess_pairs(pairs[:1]))[0]
    height, width = result.image_map.shape
    rows, columns = np.nonzero(result.image_map == result.image_map.max())
    assert set(rows) <= {height // 2 - 1, height // 2} and set(columns) <= {width // 2 - 1, width // 2}


DEFAULTS = {
    AttentionRollout: {},
    CentrePrior: {"spread": 0.25},
    Chefer: {"first_block": 0, "scale": 100.0},
    ExCLIP: {"steps": 50},
    FIxLIP: {"samples": 1000, "keep": 0.5, "seed": 0},
    GradCAM: {"image_layer": 6, "text_layer": 2},
    GradECLIP: {"image_blocks": 1, "text_blocks": 8},
    IntegratedGradients: {"steps": 50},
    KernelSHAP: {"samples": 1000, "seed": 0},
    LeGrad: {"first_block": 0},
    NIB: {"image_layer": 5, "text_layer": 1, "steps": 10},
    Occlusion: {"window": 2},
    RandomMap: {"seed": 0},
    RISE: {"samples": 4000, "cells": 7, "keep": 0.5, "seed": 0},
    Saliency: {},
    SmoothGrad: {"samples": 25, "spread": 0.15, "seed": 0},
    UniformMap: {},
}


def test_what_is_not_said_is_as_documented():
    embedded = load_backbone("embedded")
    for kind, wanted in DEFAULTS.items():
        method = kind(embedded)
        method.prepare()
        usual = ("method", "backbone", "weights", "modalities")
        assert {name: value for name, value in method.settings.items() if name not in usual} == wanted, kind
    assert GradECLIP().blocks == {"image": 1, "text": 8} and set(DEFAULTS) == set(BASELINES)


LEAST = [
    (CentrePrior, "spread", 0.01, 0.009),
    (Chefer, "scale", 0, -0.1),
    (FIxLIP, "samples", 2, 1),
    (GradECLIP, "image_blocks", 1, 0),
    (GradECLIP, "text_blocks", 1, 0),
    (IntegratedGradients, "steps", 1, 0),
    (KernelSHAP, "samples", 2, 1),
    (NIB, "steps", 1, 0),
    (Occlusion, "window", 1, 0),
    (RISE, "samples", 1, 0),
    (RISE, "cells", 1, 0),
    (SmoothGrad, "samples", 1, 0),
    (SmoothGrad, "spread", 0, -0.1),
]


@pytest.mark.parametrize(("kind", "name", "least", "less"), LEAST)
def test_the_least_that_is_documented_is_allowed_and_less_is_not(kind, name, least, less):
    assert kind(**{name: least}).hparams[name] == least
    with pytest.raises(ValueError, match=f"`{name}` to be at least {least} but got {less}. Remedy"):
        kind(**{name: less})


@pytest.mark.parametrize("kind", [FIxLIP, RISE])
def test_the_share_that_is_kept_is_above_0_and_below_1(kind):
    assert [kind(keep=keep).keep for keep in (0.01, 0.99)] == [0.01, 0.99]
    for keep in (0.0, 1.0):
        with pytest.raises(ValueError, match=f"`keep` to be above 0 and below 1 but got {keep}"):
            kind(keep=keep)


@pytest.mark.parametrize(
    ("kind", "least"), [(IntegratedGradients, {"steps": 1}), (RISE, {"samples": 1}), (KernelSHAP, {"samples": 2})]
)
def test_the_least_that_is_allowed_is(kind, least, backbone, pairs):
    (found,) = kind(backbone, modalities=["text"], **least).attribute(backbone.preprocess_pairs(pairs[:1]))
    assert np.isfinite(found.text_map).all()


@pytest.mark.parametrize("kind", [GradCAM, NIB])
def test_a_layer_that_is_given_is_the_one_that_is_explained_and_recorded(kind, backbone):
    method = kind(backbone, image_layer="embeddings", text_layer=1, modalities=["text"])
    method.prepare()
    assert (method.layer_of("image"), method.layer_of("text")) == ("embeddings", 1)
    assert method.settings["text_layer"] == 1 and method.settings["image_layer"] == "embeddings"
    assert kind(backbone, text_layer=0).layers == {"image": None, "text": 0}


def test_only_what_has_a_target_is_explained_where_targets_are_given(backbone, pairs):
    batch = backbone.preprocess_pairs(pairs[:1])
    against = torch.nn.functional.normalize(backbone.embed("text", batch), dim=-1)
    (a,) = Saliency(backbone).attribute(batch._replace(targets={"image": against}))
    assert a.text_map is None and a.image_map is not None
    (a,) = Saliency(backbone).attribute(batch._replace(targets={"text": against}))
    assert a.image_map is None and a.text_map is not None


def seen(valid, **more):
    """What a method that looks at no model sees of an objective."""
    hidden = SimpleNamespace(valid=torch.tensor(valid).bool())
    return SimpleNamespace(hidden=hidden, **more)


def test_the_centre_prior_is_a_gaussian_over_the_picture_and_over_each_text():
    found = CentrePrior().relevance(seen([[1, 1]], grid=(1, 2)))
    # A quarter from the middle, of spread a quarter: exp(-1/2).
    torch.testing.assert_close(found, torch.full((1, 1, 2), 0.6065), rtol=0, atol=1e-4)
    found = CentrePrior(spread=0.5).relevance(seen([[1] * 6], grid=(2, 3)))
    # exp(-1/8) of either row and exp(-2/9) of the outer columns.
    torch.testing.assert_close(found[0], torch.tensor([[0.7066, 0.8825, 0.7066]] * 2), rtol=0, atol=1e-4)
    found = CentrePrior().relevance(seen([[1, 1, 1, 1], [1, 1, 0, 0]], grid=None))
    # Three and one eighths from the middle of four tokens: exp(-9/8) and exp(-1/8).
    expected = torch.tensor([[0.3247, 0.8825, 0.8825, 0.3247], [0.6065, 0.6065, 0, 0]])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_a_random_map_of_a_text_follows_from_its_own_tokens_and_picture_alone(backbone, pairs):
    maps = [a.text_map for a in RandomMap(backbone).attribute(backbone.preprocess_pairs(pairs))]
    for pair, value in zip(pairs, maps, strict=True):
        (alone,) = RandomMap(backbone).attribute(backbone.preprocess_pairs([pair]))
        np.testing.assert_array_equal(alone.text_map, value)
    assert len({float(value[0]) for value in maps}) == len(pairs)
