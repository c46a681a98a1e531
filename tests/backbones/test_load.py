import json
import socket

import pytest
import torch
from safetensors.torch import load_file, save_file

from m2ib_lightning.backbones import load, load_backbone
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


@pytest.fixture
def hub(monkeypatch):
    """A port that listens in the hub's place, with no proxy before it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(load, "getproxies", dict)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        yield server


def test_a_hub_that_answers_is_asked_and_a_folder_is_not(hub, tmp_path):
    assert not load._is_offline("nobody/nothing")
    assert load._is_offline(str(tmp_path))


def test_a_hub_that_cannot_be_reached_is_not_asked_again_and_again(hub, monkeypatch):
    hub.close()
    asked = []

    def look(name, **arguments):
        asked.append(arguments["local_files_only"])
        raise OSError("not in the cache")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", look)
    with pytest.raises(ValueError, match=r"nobody/nothing.*not in the cache.*check the name and the network"):
        load_backbone("nobody/nothing")
    assert asked == [True]


def test_a_hub_behind_a_proxy_is_left_to_its_library(hub, monkeypatch):
    hub.close()
    monkeypatch.setattr(load, "getproxies", lambda: {"https": "http://proxy:3128"})
    assert not load._is_offline("nobody/nothing")
