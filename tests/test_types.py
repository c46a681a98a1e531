"""What the pieces hand to each other."""

import torch
from PIL import Image

from m2ib_lightning.types import HiddenStates, Pair, PairBatch


def batch(pairs: str = "aba", **changed) -> PairBatch:
    """A batch of rows that tell themselves apart, of pairs by their names."""
    made = {name: Pair(name, Image.new("RGB", (2, 2)), f"text {name}") for name in set(pairs)}
    count = len(pairs)
    fields = {
        "pixel_values": torch.arange(count * 3.0).reshape(count, 3, 1, 1),
        "input_ids": torch.arange(count * 2).reshape(count, 2),
        "attention_mask": torch.ones(count, 2, dtype=torch.bool),
        "views": tuple((0.0, 0.0, 1.0, i) for i in range(count)),
        "tokens": tuple((f"t{i}", "</s>") for i in range(count)),
        "spans": tuple(((0, i), (0, 0)) for i in range(count)),
        "truncated": tuple(i == 1 for i in range(count)),
        "pairs": tuple(made[name] for name in pairs),
    }
    return PairBatch(**fields | changed)


def test_only_the_named_rows_are_kept_of_everything_in_that_order_and_as_often():
    targets, weights = {"image": torch.arange(3.0)[:, None]}, {"text": torch.tensor([1.0, 2.0, 3.0])}
    whole = batch(targets=targets, weights=weights, opposed={"text": torch.arange(3) > 0})
    kept = whole.keep([2, 0, 2])
    rows = [2, 0, 2]
    for name in ("pixel_values", "input_ids", "attention_mask"):
        assert torch.equal(getattr(kept, name), getattr(whole, name)[rows]), name
    for name in ("views", "tokens", "spans", "truncated", "pairs"):
        assert getattr(kept, name) == tuple(getattr(whole, name)[i] for i in rows), name
    assert kept.targets["image"].flatten().tolist() == [2, 0, 2]
    assert kept.weights["text"].tolist() == [3, 1, 3] and kept.opposed["text"].tolist() == [True, False, True]
    without = batch().keep([1])
    assert without.targets is without.weights is without.opposed is None and len(without.pixel_values) == 1


def test_a_batch_without_pairs_is_kept_without_them():
    kept = batch()._replace(pairs=()).keep([1, 2])
    assert kept.pairs == () and kept.tokens == (("t1", "</s>"), ("t2", "</s>"))


def test_each_pair_stands_once_among_the_distinct_ones_and_every_row_knows_its_place():
    whole = batch("abacb")
    once, places = whole.distinct()
    assert [pair.id for pair in once.pairs] == ["a", "b", "c"] and places == [0, 1, 0, 2, 1]
    assert torch.equal(once.input_ids, whole.input_ids[[0, 1, 3]])
    different = batch("abc")
    same, places = different.distinct()
    assert same is different and places == [0, 1, 2]
    nameless = batch("aab")._replace(pairs=())
    same, places = nameless.distinct()
    assert same is nameless and places == [0, 1, 2]


def test_a_batch_moves_with_all_of_its_tensors_and_nothing_else():
    moved = batch(weights={"text": torch.ones(3)}, targets={"text": torch.ones(3, 4)}).to(torch.device("meta"))
    aims = moved.weights["text"], moved.targets["text"]
    for tensor in (moved.pixel_values, moved.input_ids, moved.attention_mask, *aims):
        assert tensor.is_meta
    assert moved.tokens == batch().tokens and moved.opposed is None


def test_hidden_states_keep_rows_of_what_they_have():
    states = HiddenStates(torch.arange(6.0).reshape(3, 1, 2), torch.ones(3, 1) > 0, torch.ones(3, 1) < 0, None)
    kept = states.keep([2, 2])
    assert kept.read is None and kept.states.flatten().tolist() == [4, 5, 4, 5] and kept.valid.shape == (2, 1)
    assert states._replace(read=torch.tensor([7, 8, 9])).keep(torch.tensor([1])).read.tolist() == [8]
