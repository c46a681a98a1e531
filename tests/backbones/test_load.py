import json
import socket
from types import SimpleNamespace

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import CLIPModel

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


@pytest.mark.parametrize(
    ("endpoint", "address"),
    [
        ("https://hub", ("hub", 443)),
        ("http://hub", ("hub", 80)),
        ("https://hub:8080/some", ("hub", 8080)),
        ("nothing", ("", 443)),
    ],
)
def test_the_hub_is_asked_at_its_own_port_for_five_seconds(endpoint, address, monkeypatch):
    asked, closed = [], []

    def connect(*arguments):
        asked.append(arguments)
        return SimpleNamespace(close=lambda: closed.append(True))

    monkeypatch.setattr(load, "getproxies", dict)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    monkeypatch.setattr(load.socket, "create_connection", connect)
    assert not load._is_offline("nobody/nothing") and asked == [(address, 5)] and closed == [True]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert load._is_offline("nobody/nothing") and len(asked) == 1


@pytest.mark.parametrize(
    ("error", "said"), [(OSError("one\ntwo"), "(one)"), (OSError(), "(OSError)"), (ValueError(" \n"), "(ValueError)")]
)
def test_why_a_model_cannot_be_read_is_said_in_a_line(error, said, monkeypatch):
    def look(*_, **__):
        raise error

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", look)
    with pytest.raises(ValueError) as refused:
        load_backbone("nobody/nothing")
    assert str(refused.value) == (
        "Expected a model at 'nobody/nothing'; looked in a local folder, then the Hugging Face hub, but could not read "
        f"one {said}. Remedy: check the name and the network, or use a local folder or 'embedded', which need none."
    )


@pytest.mark.parametrize(
    ("missing", "others"), [(["visual_projection.weight"], 0), (["logit_scale", "text_projection.weight"], 1)]
)
def test_the_first_weight_that_is_missing_is_named_and_the_others_are_counted(missing, others, tmp_path):
    random_clip(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    for name in missing:
        del weights[name]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=rf"lacks {missing[0]} and {others} other weights\. Remedy: get the checkpoint"
    ):
        load_backbone(str(tmp_path))


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"model_type": "bert"}, "bert"),
        ({"model_type": "bert", "architectures": ["BertModel", "Other"]}, "BertModel"),
        ({"model_type": "blip", "architectures": ["BlipForConditionalGeneration"]}, "BlipForConditionalGeneration"),
        ({"model_type": "blip"}, "blip"),
    ],
)
def test_a_model_that_is_none_of_ours_is_called_by_its_class_or_else_its_type(config, kind, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ValueError, match=rf"Expected a model of a known family \(align, .*\) but '.*' is a {kind}\. Remedy"
    ):
        load_backbone(str(tmp_path))


def test_a_checkpoint_that_does_not_name_its_class_is_read_by_its_family(tmp_path):
    random_clip(tmp_path)
    said = json.loads((tmp_path / "config.json").read_text())
    del said["architectures"]
    (tmp_path / "config.json").write_text(json.dumps(said))
    assert type(load_backbone(str(tmp_path)).model).__name__ == "CLIPModel"


def test_the_librarys_words_and_bars_are_as_they_were_after_loading_and_gone_while_a_folder_is_read(monkeypatch):
    from transformers.utils import logging

    seen, original = [], CLIPModel.from_pretrained

    def watched(*given, **arguments):
        seen.append((logging.get_verbosity(), logging.is_progress_bar_enabled()))
        assert arguments["trust_remote_code"] is False and arguments["dtype"] == torch.float32
        return original(*given, **arguments)

    monkeypatch.setattr("transformers.AutoModel.from_pretrained", watched)
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load_backbone("embedded")
    assert seen == [(logging.ERROR, False)]
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    with load._quiet(progress=True):
        assert logging.get_verbosity() == logging.ERROR and logging.is_progress_bar_enabled() == before[1]


def test_no_code_of_a_checkpoint_is_ever_run(monkeypatch):
    trusted = []
    for kind in ("AutoConfig", "AutoProcessor"):
        original = getattr(transformers, kind).from_pretrained

        def watched(*given, original=original, **arguments):
            trusted.append(arguments["trust_remote_code"])
            return original(*given, **arguments)

        monkeypatch.setattr(f"transformers.{kind}.from_pretrained", watched)
    load_backbone("embedded")
    assert len(trusted) >= 2 and not any(trusted)
