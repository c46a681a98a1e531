"""What every baseline keeps, whatever it computes."""

import inspect
import json

import numpy as np
import pytest
import torch

from m2ib_lightning import AttributionStore, explain, methods
from m2ib_lightning.cli import main
from m2ib_lightning.methods import (
    RISE,
    AttributionMethod,
    Baseline,
    CentrePrior,
    Chefer,
    ExCLIP,
    FIxLIP,
    KernelSHAP,
    RandomMap,
    SmoothGrad,
    UniformMap,
)  # fmt: skip

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


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (methods.NIB, {"steps": 0}, "`steps`"),
        (methods.RISE, {"keep": 1.0}, "`keep`"),
        (methods.KernelSHAP, {"samples": 1}, "`samples`"),
        (methods.FIxLIP, {"keep": 0.0}, "`keep`"),
        (methods.Occlusion, {"window": 0}, "`window`"),
        (methods.SmoothGrad, {"spread": -1.0}, "`spread`"),
        (methods.GradECLIP, {"image_blocks": 0}, "`image_blocks`"),
        (methods.IntegratedGradients, {"steps": 0}, "`steps`"),
    ],
)
def test_arguments_out_of_range_are_refused(kind, arguments, message):
    with pytest.raises(ValueError, match=f"{message}.*Remedy"):
        kind("embedded", **arguments)


@pytest.mark.parametrize(
    ("kind", "least"),
    [(methods.IntegratedGradients, {"steps": 1}), (methods.RISE, {"samples": 1}), (methods.KernelSHAP, {"samples": 2})],
)
def test_the_least_that_is_allowed_is(kind, least, backbone, pairs):
    (found,) = kind(backbone, modalities=["text"], **least).attribute(backbone.preprocess_pairs(pairs[:1]))
    assert np.isfinite(found.text_map).all()
