from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from m2ib_lightning.backbones import load_backbone
from m2ib_lightning.errors import UnsuitedModel
from m2ib_lightning.methods import objective as module
from m2ib_lightning.methods.objective import Objective, gradients, objectives, token_embeddings, token_table
from tests.methods.made import scene_pairs


@pytest.fixture(scope="module")
def embedded():
    return load_backbone("embedded")


@pytest.fixture(scope="module")
def both(embedded):
    return objectives(embedded, embedded.preprocess_pairs(scene_pairs(3)))


IDS = torch.tensor([[1, 2, 3], [3, 0, 0]])
TABLE = torch.arange(8.0).reshape(4, 2)


@pytest.mark.parametrize(
    "look_up",
    [
        lambda: F.embedding(IDS, TABLE),
        lambda: F.embedding(IDS, weight=TABLE),
        lambda: F.embedding(input=IDS, weight=TABLE),
        lambda: torch.nn.Embedding.from_pretrained(TABLE)(IDS),
    ],
)
def test_what_is_looked_up_for_these_tokens_is_seen_and_replaced_however_it_is_called(look_up):
    with token_embeddings(IDS) as found:
        F.embedding(IDS[:1], TABLE), F.embedding(IDS.flip(0), TABLE)  # of other tokens
        assert torch.equal(look_up(), TABLE[IDS])
    assert len(found) == 1 and torch.equal(found[0], TABLE[IDS])
    other = torch.ones(2, 3, 2)
    with token_embeddings(IDS.clone(), other) as found:
        assert look_up() is other
        assert torch.equal(F.embedding(IDS[:1], TABLE), TABLE[IDS[:1]])
    assert torch.equal(found[0], TABLE[IDS])


@pytest.mark.parametrize("times", [0, 2])
def test_a_model_that_looks_tokens_up_never_or_twice_is_refused(times):
    said = rf"saw {times} lookups\. Remedy: explain the image only"
    with pytest.raises(UnsuitedModel, match=said), token_embeddings(IDS):
        for _ in range(times):
            F.embedding(IDS, TABLE)


@pytest.mark.parametrize("call", [lambda: F.embedding(IDS, TABLE), lambda: F.embedding(input=IDS, weight=TABLE)])
def test_the_table_of_tokens_is_the_models_own_or_there_is_none(embedded, call):
    batch = embedded.preprocess_pairs(scene_pairs(1))
    table = token_table(embedded, batch)
    assert torch.equal(table, embedded.model.text_model.embeddings.token_embedding.weight)
    made = SimpleNamespace(text=SimpleNamespace(prefix=lambda batch, layer: call()))
    assert torch.equal(token_table(made, SimpleNamespace(input_ids=IDS)), TABLE)
    made.text.prefix = lambda batch, layer: None
    with pytest.raises(UnsuitedModel, match=r"saw no lookup\. Remedy: explain phrases by `WithoutPhrase`"):
        token_table(made, SimpleNamespace(input_ids=IDS))


def test_content_is_what_is_neither_special_nor_padding(both):
    text = both["text"]
    lengths = [len(tokens) for tokens in text.batch.tokens]
    assert text.content.sum(1).tolist() == [length - 2 for length in lengths] and len(set(lengths)) > 1
    assert not text.content[:, 0].any() and both["image"].content.sum(1).tolist() == [64] * 3
    assert both["image"].grid == (8, 8) and text.grid is None


def test_targets_are_the_other_halves_unless_others_are_given(embedded, both):
    batch = embedded.preprocess_pairs(scene_pairs(3))
    image, text = embedded.embed("image", batch), embedded.embed("text", batch)
    torch.testing.assert_close(both["image"].target, F.normalize(text, dim=-1))
    torch.testing.assert_close(both["text"].target, F.normalize(image, dim=-1))
    torch.testing.assert_close(both["image"].clean, F.cosine_similarity(image, text))
    given = torch.zeros_like(text)
    found = objectives(embedded, batch._replace(targets={"image": given}))
    assert found["image"].target is given and torch.equal(found["text"].target, both["text"].target)
    turned = both["text"].towards(-both["text"].target)
    torch.testing.assert_close(turned.clean, -both["text"].clean)
    assert both["text"].target is not turned.target


def test_masks_are_drawn_for_all_pairs_alike_and_a_texts_do_not_depend_on_the_longest(embedded, both):
    def drawn(objective, keep=0.25):
        return objective.random_masks(400, keep, torch.Generator().manual_seed(0))

    assert drawn(both["image"]).shape == (400, 1, 8, 8)
    length = both["text"].inputs.shape[1]
    short = objectives(embedded, embedded.preprocess_pairs(scene_pairs(1)))["text"]
    assert drawn(both["text"]).shape == (400, 1, length) and short.inputs.shape[1] < length
    assert torch.equal(drawn(short), drawn(both["text"])[..., : short.inputs.shape[1]])
    masks = drawn(both["image"])
    assert set(masks.flatten().tolist()) == {0.0, 1.0} and float(masks.mean()) == pytest.approx(0.25, abs=0.01)


def test_one_mask_at_a_time_is_the_least(both, monkeypatch):
    monkeypatch.setattr(module, "SEQUENCE_VALUES", 1)
    text, at_once = both["text"].towards(both["text"].target), []
    text.embed = lambda inputs: (at_once.append(len(inputs)), inputs.flatten(2)[..., :1])[1]
    masks = torch.ones(3, 1, text.inputs.shape[1])
    assert text.masked_embeddings(masks).shape == (3, 3, 1) and at_once == [1, 1, 1]


def test_several_inputs_are_embedded_each_as_if_alone(both):
    for objective in both.values():
        inputs = torch.stack([objective.inputs, 0.5 * objective.inputs])
        with torch.no_grad():
            together = objective.embed(inputs)
            for one, found in zip(inputs, together, strict=True):
                torch.testing.assert_close(objective.embed(one[None])[0], found, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together[0], objective.embedding, rtol=1e-4, atol=1e-5)


def test_a_mask_of_the_pictures_own_size_is_taken_as_it_is_and_others_by_the_nearest_cell(both):
    image = both["image"]
    full = torch.rand(2, 1, 96, 96, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(image.blend(full), full[:, :, None] * image.inputs)
    cells = torch.rand(1, 3, 2, 3, generator=torch.Generator().manual_seed(0))
    spread = cells.repeat_interleave(48, -2).repeat_interleave(32, -1)
    torch.testing.assert_close(image.blend(cells, torch.tensor(2.0)), image.blend(spread, torch.tensor(2.0)))


def test_special_tokens_stay_whatever_the_mask_and_an_empty_text_has_nothing_else(both):
    text = both["text"]
    hidden = text.blend(torch.zeros(1, 1, text.inputs.shape[1]))[0]
    torch.testing.assert_close(hidden, text.emptied())
    for row, inputs, content in zip(hidden, text.inputs, text.content, strict=True):
        assert not row[content].any() and torch.equal(row[~content], inputs[~content])
    assert not both["image"].emptied().any()


def test_values_of_pixels_are_summed_over_channels_and_cells_that_may_share_pixels():
    made = object.__new__(Objective)
    made.grid, made.inputs = (2, 2), torch.zeros(1, 3, 5, 3)
    # Cells are of 3 x 2 pixels, their mean of 3 times 5 * 3 / 4.
    torch.testing.assert_close(made.input_map(torch.ones(1, 3, 5, 3)), torch.full((1, 2, 2), 11.25))
    made.inputs = torch.zeros(1, 3, 4, 6)
    values = torch.zeros(1, 3, 4, 6)
    values[0, :, 0, 0], values[0, 0, 3, 5] = torch.tensor([1.0, 2.0, 4.0]), 5.0
    torch.testing.assert_close(made.input_map(values), torch.tensor([[[7.0, 0.0], [0.0, 5.0]]]))


def test_values_of_padding_are_0_in_a_map_of_a_text_and_patches_stand_row_by_row():
    made = object.__new__(Objective)
    made.grid, made.hidden = None, SimpleNamespace(valid=torch.tensor([[True, True, False]]))
    assert made.token_map(torch.tensor([[1.0, 2.0, 3.0]])).tolist() == [[1, 2, 0]]
    assert made.input_map(torch.ones(1, 3, 4)).tolist() == [[4, 4, 0]]
    made.grid, made.content = (2, 3), torch.tensor([[False] + [True] * 6])
    assert made.token_map(torch.arange(7.0)[None]).tolist() == [[[1, 2, 3], [4, 5, 6]]]


def test_gradients_are_on_inside_of_inference_mode_and_as_before_behind():
    with torch.inference_mode():
        with gradients():
            x = torch.ones(1, requires_grad=True)
            assert (2 * x).requires_grad and not torch.is_inference_mode_enabled()
        assert torch.is_inference_mode_enabled() and not torch.is_grad_enabled()
