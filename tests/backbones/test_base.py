from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import nn

from m2ib_lightning.backbones.base import Backbone, Tower, check_texts, check_whole_patches, unnamed_pairs, with_prefix
from m2ib_lightning.types import HiddenStates, Pair, PairBatch


class Sums(Tower):
    """States are the pixels of one channel, row by row, or the ids; embeddings are sums over tokens."""

    depth, width, length, reads = 4, 1, 6, "sum of all tokens"

    def __init__(self, patch=None):
        self.patch = patch

    def prefix(self, batch, layer):
        self.check_layer(layer)
        given = batch.pixel_values[:, 0].flatten(1) if self.patch else batch.input_ids
        return with_prefix(given[..., None].float(), 1, True)

    def suffix(self, states: torch.Tensor, hidden: HiddenStates, layer) -> torch.Tensor:
        return states.sum(2)


class Made(Backbone):
    """Reads pictures of 4 x 6 pixels, and of a text its number of characters."""

    image_size = (4, 6)

    def __init__(self, model=None):
        super().__init__(model or nn.Linear(2, 3), "made")
        self.image, self.text = Sums(patch=2), Sums()

    def read(self, images, texts):
        check_texts(images, texts)
        ids = torch.tensor([[1, len(text)] for text in texts])
        spans = tuple(((0, 0), (0, len(text))) for text in texts)
        pairs, views = unnamed_pairs(images, texts), ((0, 0, 1, 1),) * len(texts)
        pixels = torch.ones(len(texts), 3, 4, 6)
        return PairBatch(pixels, ids, torch.ones_like(ids).bool(), views, (("[", "x"),), spans, (False,), pairs)


def test_a_tower_has_no_token_before_the_input_and_hides_padding_unless_it_says_otherwise():
    tower = Sums()
    assert (tower.prefix_tokens, tower.reads_padding, tower.patch) == (0, False, None)
    assert Made().kept_contract is False


def test_a_grid_has_as_many_rows_and_columns_as_patches_fit_and_a_text_has_none():
    backbone = Made()
    batch = backbone.preprocess([Image.new("RGB", (1, 1))] * 2, ["a", "abc"])
    assert backbone.image.grid(batch) == (2, 3) and backbone.image.grids(batch) == [(2, 3), (2, 3)]
    assert backbone.text.grid(batch) is None and backbone.text.grids(batch) is None
    ragged = batch._replace(pixel_values=torch.zeros(1, 3, 5, 9))
    assert backbone.image.grid(ragged) == (2, 4)


def test_embeddings_are_those_of_the_tower_that_is_asked_and_have_no_gradient():
    backbone = Made()
    batch = backbone.preprocess([Image.new("RGB", (1, 1))] * 2, ["a", "abc"])
    assert backbone.embed("text", batch).tolist() == [[2], [4]]
    assert backbone.embed("image", batch).tolist() == [[24], [24]]
    assert backbone.tower("image") is backbone.image and backbone.tower("text") is backbone.text
    hidden = backbone.text.prefix(batch, 0)
    states = hidden.states.clone().requires_grad_()
    assert backbone.text.finish(hidden._replace(states=states), 0).requires_grad
    assert not backbone.embed("text", batch).requires_grad


@pytest.mark.parametrize("layer", ["embeddings", 0, 1, 2])
def test_a_tower_of_four_blocks_is_cut_before_the_first_or_behind_any_but_the_last(layer):
    Sums().check_layer(layer)


@pytest.mark.parametrize("layer", [-1, 3, 4, "first", 1.0, None])
def test_a_tower_is_cut_nowhere_else(layer):
    with pytest.raises(ValueError) as refused:
        Sums().check_layer(layer, "text_layer")
    assert str(refused.value) == (
        f"Expected `text_layer` to be 'embeddings' or a block in 0..2 but got {layer!r}. Remedy: choose one of those; "
        "the model has 4 blocks and the last one must stay behind the bottleneck."
    )


def test_what_is_inferred_is_said_in_plain_values():
    backbone = Made()
    backbone.text.reads_padding = True
    tower = {
        "blocks": 4, "layers": "'embeddings' or 0..2", "width": 1, "most tokens": 6, "prefix tokens": 0,
        "head reads": "sum of all tokens",
    }  # fmt: skip
    assert backbone.describe() == {
        "name": "made",
        "class": "Linear",
        "weights": backbone.weight_hash,
        "parameters": 9,
        "image": {"pixels": (4, 6), "grid": (2, 3), **tower, "padding": "hidden"},
        "text": {**tower, "padding": "read like any token"},
    }


def test_the_hash_is_of_the_weights_whatever_their_type_and_16_digits_long():
    one = nn.Linear(2, 2)
    made = [Made(one), Made(nn.Linear(2, 2)), Made(nn.Linear(2, 2).to(torch.bfloat16))]
    made[1].model.load_state_dict(one.state_dict())
    assert made[0].weight_hash == made[1].weight_hash != made[2].weight_hash
    assert all(len(b.weight_hash) == 16 and int(b.weight_hash, 16) >= 0 for b in made)
    assert Made(nn.Linear(2, 2).requires_grad_(False)).device == torch.device("cpu")


def test_a_model_is_frozen_stays_so_and_must_be_finite():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train()
    backbone = Made(model)
    assert not any(p.requires_grad for p in model.parameters()) and not model[1].training
    assert backbone.train() is backbone and backbone.train(True) is backbone and not model[1].training
    model[0].bias.data[1] = torch.inf
    with pytest.raises(ValueError, match=r"Expected finite weights but 0\.bias of 'made' has some that are not"):
        Made(model)


def test_pairs_of_data_keep_their_names_and_others_are_called_by_their_places():
    pictures = [Image.new("RGB", (1, 1)), Image.new("RGB", (2, 2))]
    assert [pair.id for pair in Made().read(pictures, ["a", "b"]).pairs] == ["0", "1"]
    pairs = [Pair(name, image, "text") for name, image in zip("xy", pictures, strict=True)]
    assert Made().read_pairs(pairs).pairs == Made().preprocess_pairs(pairs).pairs == tuple(pairs)


@pytest.mark.parametrize(("images", "texts"), [(1, 2), (2, 1), (0, 0), (1, 0)])
def test_as_many_pictures_as_texts_are_needed(images, texts):
    said = rf"as many images as texts, at least one, but got {images} and {texts}\. Remedy: give lists of one length"
    with pytest.raises(ValueError, match=said):
        check_texts([None] * images, ["a"] * texts)


def test_a_text_of_spaces_is_named_by_its_place():
    check_texts([None] * 2, ["a", " b"])
    with pytest.raises(ValueError, match="Expected a caption for pair 1 but it is empty"):
        check_texts([None] * 2, ["a", " \n"])


def test_patches_cover_a_picture_exactly_or_are_refused():
    assert [check_whole_patches(size, 8) for size in ((8, 8), (16, 24), (24, 8))] == [1, 6, 3]
    for size in ((16, 20), (20, 16), (0, 8), (8, 0), (4, 8)):
        with pytest.raises(ValueError, match=r"whole patches of 8 pixels but got .*Remedy: choose multiples of 8"):
            check_whole_patches(size, 8)


@pytest.mark.parametrize("reads_first", [True, False])
def test_special_tokens_come_first_and_the_head_may_read_the_first_of_them(reads_first):
    hidden = with_prefix(torch.zeros(2, 4, 3), 2, reads_first)
    assert hidden.special.tolist() == [[True, True, False, False]] * 2 and hidden.valid.all()
    assert hidden.read is None or hidden.read.tolist() == [0, 0]
    assert (hidden.read is not None) == reads_first
    assert not with_prefix(torch.zeros(2, 4, 3), 0, False).special.any()


def test_a_backbone_stands_where_its_weights_are():
    made = SimpleNamespace(model=nn.Linear(1, 1, device="meta"))
    assert Backbone.device.fget(made) == torch.device("meta")
