"""Which words with which regions: the maps of phrases, and the words of regions, held against what they mean."""

from __future__ import annotations

import torch
from einops import einsum, rearrange, reduce
from torch import Tensor

from m2ib_lightning.metrics.base import PairMetric, check_map
from m2ib_lightning.metrics.pointing_game import pointing_game
from m2ib_lightning.metrics.relevance_mass import relevance_mass_accuracy


def phrase_pointing(maps: Tensor, touched: Tensor) -> Tensor:
    """Share of the phrases whose highest patch touches what they name; of several equal ones, the share that does.

    Args:
        maps: The maps of P phrases, a value per patch, (P, gh, gw).
        touched: The patches with a pixel of what each of them names, (P, gh, gw) bool; a phrase without any is missed.

    Returns:
        () in 0..1.

    >>> phrase_pointing(torch.tensor([[[1.0, 0.0]], [[1.0, 1.0]]]), torch.tensor([[[True, False]], [[True, False]]]))
    tensor(0.7500)
    """
    return pointing_game(maps, touched).nan_to_num(0.0).mean()


def phrase_mass(maps: Tensor, truths: Tensor) -> Tensor:
    """Share of a phrase's map that lies on what it names, meaned over the phrases; () in 0..1."""
    return relevance_mass_accuracy(maps, truths).mean()


def phrase_leak(maps: Tensor, others: Tensor) -> Tensor:
    """Share of a phrase's map on the other named things and their likes, meaned; () in 0..1, lower is better.

    A phrase with no others beside it leaks nothing.
    """
    return relevance_mass_accuracy(maps, others).nan_to_num(0.0).mean()


def phrase_retrieval(maps: Tensor, truths: Tensor) -> Tensor:
    """Share of the things for which their own phrase, of all, has the largest share of its map there.

    Returns:
        () in 0..1, nan for a single phrase.

    >>> maps = torch.tensor([[[3.0, 1.0]], [[0.0, 2.0]]])
    >>> phrase_retrieval(maps, torch.tensor([[[True, False]], [[False, True]]]))
    tensor(1.)
    """
    check_map(maps, truths)
    if len(maps) < 2:
        return torch.tensor(float("nan"))
    positive = maps.clamp(min=0)
    shares = positive / reduce(positive, "p h w -> p 1 1", "sum").clamp(min=1e-12)
    there = einsum(shares, truths.to(shares.dtype), "p h w, t h w -> p t")
    return (there.argmax(0) == torch.arange(len(maps), device=maps.device)).float().mean()


def region_words(maps: Tensor, truths: Tensor, content: Tensor) -> Tensor:
    """Share of the regions for which the token of the highest value is one that names what is there.

    Args:
        maps: (R, L), the values of tokens for each region.
        truths: The tokens that name what is there, (R, L) bool.
        content: (L,) bool, false for special tokens.

    Returns:
        () in 0..1.
    """
    check_map(maps, truths)
    best = maps.masked_fill(~content, -torch.inf).argmax(-1)
    return truths.gather(1, rearrange(best, "r -> r 1")).float().mean()


class PhrasePointing(PairMetric):
    """Share of phrases whose highest patch touches what they name; higher is better."""

    function = phrase_pointing
    takes = ("phrase_patches", "phrase_touched")


class PhraseMass(PairMetric):
    """Share of the phrases' maps on what they name; higher is better."""

    function = phrase_mass
    takes = ("phrase_maps", "phrase_truths")


class PhraseLeak(PairMetric):
    """Share of the phrases' maps on the other things that are named or like those that are; lower is better."""

    function = phrase_leak
    takes = ("phrase_maps", "phrase_others")
    higher_is_better = False


class PhraseRetrieval(PairMetric):
    """Share of things found by their own phrase among those of the text; higher is better."""

    function = phrase_retrieval
    takes = ("phrase_maps", "phrase_truths")


class RegionWords(PairMetric):
    """Share of regions whose first word names what is there; higher is better."""

    function = region_words
    takes = ("region_maps", "region_truths", "content")
    modality = "text"
