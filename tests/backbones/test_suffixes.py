"""What a fit runs behind a bottleneck: the tower's own numbers, in the precision that is on, compiled or not."""

import copy

import pytest
import torch

from m2ib_lightning import M2IB
from m2ib_lightning.backbones import Backbone, load_backbone
from m2ib_lightning.backbones.suffixes import Suffixes, compiled_by_block
from m2ib_lightning.evaluation.sanity import randomise
from m2ib_lightning.types import MODALITIES
from tests.backbones.compare import behind
from tests.methods.test_m2ib import FAST, assert_same_maps, scene_pairs


@pytest.fixture(scope="module")
def embedded() -> Backbone:
    return load_backbone("embedded")


@pytest.mark.parametrize("modality", MODALITIES)
def test_the_copy_is_made_once_and_the_model_stays_as_it_is(embedded, modality):
    suffixes = Suffixes(embedded)
    behind(embedded, modality, suffixes, autocast=torch.bfloat16)
    assert embedded.image.blocks[0].layer.mlp.fc1.weight.dtype == torch.float32
    tower = suffixes._tower(modality, torch.bfloat16, embedded.device)
    behind(embedded, modality, suffixes, autocast=torch.bfloat16)
    assert tower is suffixes._tower(modality, torch.bfloat16, embedded.device)
    assert {p.dtype for block in tower.blocks for p in block.layer.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("autocast", [None, torch.float16])
def test_other_precisions_run_in_the_model_itself(embedded, autocast):
    found = behind(embedded, "image", Suffixes(embedded), autocast=autocast)
    wanted = behind(embedded, "image", None, autocast=autocast)
    torch.testing.assert_close(found[0], wanted[0].float(), rtol=0, atol=0)
    torch.testing.assert_close(found[1], wanted[1], rtol=0, atol=0)


def test_a_copied_method_that_is_given_other_weights_explains_by_them(embedded):
    """As `sanity` does: what was made of the first weights must not explain for the others."""
    batch = embedded.preprocess_pairs(scene_pairs(1))
    method = M2IB(embedded, **FAST)
    with torch.autocast("cpu", torch.bfloat16):
        (before,) = method.attribute(batch)
        twin = copy.deepcopy(method)
        randomise(twin.prepare(), 0)
        fresh = copy.deepcopy(embedded)
        randomise(fresh, 0)
        # Priors are measured with the weights of the model that is explained; the twin has those it was prepared with.
        other = M2IB(fresh, **FAST)
        other.prepare({m: tower.prior for m, tower in twin.towers.items()})
        (found,), (wanted,) = twin.attribute(batch), other.attribute(batch)
    assert_same_maps(found, wanted)
    assert abs(found.image_map - before.image_map).max() > 0.1


@pytest.mark.parametrize(("autocast", "count"), [(None, 1), (torch.bfloat16, 0), (torch.float16, 1)])
def test_code_is_compiled_if_it_is_asked_for_and_on_a_processor_not_for_bfloat16(
    embedded, autocast, count, monkeypatch
):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function: compiled.append(function) or function)
    behind(embedded, "text", Suffixes(embedded), autocast=autocast)
    assert not Suffixes(embedded).compiled and not compiled
    found = behind(embedded, "text", Suffixes(embedded, compiled=True), autocast=autocast)
    assert len(compiled) == count and found[0].dtype == torch.float32


def test_a_tower_that_is_no_stack_of_blocks_is_compiled_as_a_whole(monkeypatch):
    class Whole:
        def suffix(self, states, hidden, layer):
            return states + 1

    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function: compiled.append(function) or (lambda *given: "compiled"))
    tower = Whole()
    twin = compiled_by_block(tower)
    assert twin.suffix(0, None, 0) == "compiled" and tower.suffix(0, None, 0) == 1 and len(compiled) == 1
