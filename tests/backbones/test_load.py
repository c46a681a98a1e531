import json
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from m2ib_lightning.backbones import load_backbone
from tests.checkpoints import random_clip


def test_the_embedded_model_loads_in_float32():
    backbone = load_backbone("embedded")
    assert {p.dtype for p in backbone.parameters()} == {torch.float32}
    assert backbone.image_size == (96, 96)


def test_an_unknown_name_says_what_was_looked_for_and_what_works():
    with pytest.raises(ValueError, match=r"nobody/nothing.*hub.*'embedded'"):
        load_backbone("nobody/nothing")


def test_a_folder_without_a_checkpoint_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no config\.json"):
        load_backbone(str(tmp_path))


def test_a_folder_with_a_damaged_checkpoint_is_named(tmp_path):
    random_clip(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="Remedy"):
        load_backbone(str(tmp_path))


def test_weights_that_are_not_finite_are_refused(tmp_path):
    random_clip(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["visual_projection.weight"][0, 0] = float("nan")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"finite weights but visual_projection\.weight"):
        load_backbone(str(tmp_path))


def test_a_model_of_another_family_is_refused_with_its_class(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["BertModel"]}))
    with pytest.raises(ValueError, match=r"BertModel.*backbones/base\.py"):
        load_backbone(str(tmp_path))


def test_a_missing_weight_is_refused_and_not_made_up(tmp_path):
    random_clip(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"visual_projection\.weight"):
        load_backbone(str(tmp_path))


def test_looking_for_a_model_without_a_network_does_not_hang():
    start = time.monotonic()
    with pytest.raises(ValueError):
        load_backbone("nobody/nothing")
    assert time.monotonic() - start < 20
