"""Targets: what a pair is explained against, as directions of the space that images and texts share.

The relevance of a tower is how far its normalised embedding points along its target. With the other modality's
normalised embedding as target that is the cosine similarity. With a difference of two, n(full) - n(without), it is how
much more similar the tower's embedding is to the one than to the other, and the map shows where that difference lies.
Of two that differ in a part, "a red crab" and "a blue crab", see `rivals`.
"""

from __future__ import annotations

import difflib
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, ClassVar, Literal, NamedTuple, cast, get_args

import numpy as np
import torch
from einops import rearrange, reduce, repeat
from PIL import Image, ImageFilter
from torch import Tensor
from torch.nn import functional as F

from m2ib_lightning.backbones import Backbone
from m2ib_lightning.backbones.towers import no_text
from m2ib_lightning.checks import check_at_least, check_choice
from m2ib_lightning.losses import along
from m2ib_lightning.methods.embed_alone import embed_alone
from m2ib_lightning.methods.objective import token_table
from m2ib_lightning.methods.priors import default_layer, find_priors
from m2ib_lightning.types import Box, Modality, PairBatch, Span

PhraseOut = Literal["deleted", "neutral", "mean"]
"""How a phrase is taken out of its text: left out with the article before it, replaced by `NEUTRAL`, or its tokens'
embeddings replaced by their mean over data."""

RegionOut = Literal["blurred", "mean"]
"""How a region is taken out of its picture: blurred until nothing is seen in it, or the hidden states of its patches
replaced by their mean over data."""

NEUTRAL = "thing"
"""What stands for a phrase that is replaced, and for all of a text of which nothing would be left."""

ALIKE = 3
"""Tokens that stand for a word in turn."""

CONTESTED = 0.05
"""Below it a picture shows as well what could stand in a word's place. Of colours that another object there has the
cosine was -0.03 to 0.03, of nine in ten words for objects that are there alone 0.06 and more, with two models."""

SHOWN = 0.13
"""From it on a contested phrase is in the picture, whatever the similarity without it. Of what was there in two colours
the cosine with the difference to all that could stand there was above it, of words for nothing there below, with two
models."""

RIVAL = 0.5
"""How much of what speaks for one of two is taken off by what speaks for the other, see `rivals`."""

OWN_WORDS = 1 / 6
"""What relevance of a text along its difference to a foil counts for. At 1 the words that both have keep nearly as much
as those that the foil has not."""

BLUR = 0.125
"""Standard deviation of the blur, in widths of the picture."""


class Target(ABC):
    """A maker of targets. A further one implements `directions`.

    Attributes:
        weight: What relevance along it counts for against compression.
    """

    weight: ClassVar[float] = 1.0

    @abstractmethod
    def directions(self, backbone: Backbone, batch: PairBatch) -> dict[Modality, Tensor]:
        """For each tower that is to be explained the direction (B, E) that its embedding is measured along."""

    def aim(self, backbone: Backbone, batch: PairBatch) -> PairBatch:
        """The batch with its targets; every method explains it against them."""
        directions = self.directions(backbone, batch)
        return self._aimed(batch, directions, self.opposed(directions))

    def opposed(self, directions: Mapping[Modality, Tensor]) -> dict[Modality, Tensor]:
        """For towers from whose maps what speaks for another direction is taken off, that one; see `OpposedFit`."""
        return {}

    def _aimed(
        self,
        batch: PairBatch,
        directions: Mapping[Modality, Tensor],
        opposed: Mapping[Modality, Tensor],
        weights: Mapping[Modality, Tensor | float] | None = None,
    ) -> PairBatch:
        each = {m: (weights or {}).get(m, self.weight) for m in directions}
        return batch._replace(
            targets=directions,
            weights={m: directions[m].new_ones(len(directions[m])) * weight for m, weight in each.items()},
            opposed={m: opposed.get(m, torch.zeros_like(direction)) for m, direction in directions.items()},
        )


class OtherModality(Target):
    """Each tower against the other one's normalised clean embedding: relevance is the cosine similarity."""

    def directions(self, backbone: Backbone, batch: PairBatch) -> dict[Modality, Tensor]:
        """(B, E), of length 1, for both towers."""
        return {"image": unit(backbone, "text", batch), "text": unit(backbone, "image", batch)}


class Difference(Target):
    """Against n(own) - n(without), not renormalised: what makes one input of a pair differ from another in its place.

    A further one implements `without`.

    Attributes:
        changed: The modality whose input is compared with another.
        explained: The towers that the difference is a target of.
    """

    changed: Modality
    explained: ClassVar[tuple[Modality, ...]]

    @abstractmethod
    def without(self, backbone: Backbone, batch: PairBatch) -> Tensor:
        """(B, E) embeddings of what is in the place of the input, of any length."""

    def directions(self, backbone: Backbone, batch: PairBatch) -> dict[Modality, Tensor]:
        """(B, E), of the length of the difference."""
        difference = unit(backbone, self.changed, batch) - F.normalize(self.without(backbone, batch).float(), dim=-1)
        return dict.fromkeys(self.explained, difference)


class Against(Difference):
    """Against a foil: what speaks for this text rather than that one, or for this picture rather than that one.

    Both towers are explained. The map of the changed one shows what of it makes the difference, n(own) - n(foil). That
    of the other shows where it agrees with the own one and not with the foil: along n(own) - n(foil) for a text beside
    another picture, and as one of two `rivals` for a picture beside another text, common being the text without the
    words that the foil has not, and without words beside those that tell half as much, such as "crab" beside "red".

    Args:
        foils: One for each pair, or one for all: captions, or pictures or their files for `modality` "image".
        modality: Whether the foils are captions or pictures.
    """

    explained = ("image", "text")

    def __init__(self, foils: Sequence[Any], modality: Modality = "text") -> None:
        self.foils, self.changed = list(foils), modality

    def directions(self, backbone: Backbone, batch: PairBatch) -> dict[Modality, Tensor]:
        """(B, E) for both towers."""
        return self._sides(backbone, batch)[0]

    def aim(self, backbone: Backbone, batch: PairBatch) -> PairBatch:
        """The batch with its targets; the tower that is not changed is opposed."""
        return self._aimed(batch, *self._sides(backbone, batch), {"text": OWN_WORDS} if self.changed == "text" else {})

    def without(self, backbone: Backbone, batch: PairBatch) -> Tensor:
        """Embeddings of the foils."""
        found = embed_alone(backbone, self.changed, self.foils)
        return repeat(found, "1 e -> b e", b=len(batch.pixel_values)) if len(found) == 1 else found

    def _sides(self, backbone: Backbone, batch: PairBatch) -> tuple[dict[Modality, Tensor], dict[Modality, Tensor]]:
        """The directions, and what is opposed to them."""
        own = unit(backbone, self.changed, batch)
        foil = F.normalize(self.without(backbone, batch).float(), dim=-1)
        if self.changed == "image":
            return dict.fromkeys(self.explained, own - foil), {"text": foil - own}
        image, opposed = rivals(own, foil, self._common(backbone, batch, own))
        return {"image": image, "text": own - foil}, {"image": opposed}

    def _common(self, backbone: Backbone, batch: PairBatch, own: Tensor) -> Tensor:
        """(B, E) of length 1, the texts without what tells them from their foils."""
        words = [words_or_all(pair.text) for pair in batch.pairs]
        rows = [row for row, of_text in enumerate(words) for _ in of_text]
        without = at_mean(backbone, unseen(batch).keep(rows), [[word] for of_text in words for word in of_text])
        tells = (own[rows] - without).norm(dim=-1).split([len(of_text) for of_text in words])
        foils = self.foils * (len(words) // len(self.foils))
        differ = [differing(pair.text, foil) for pair, foil in zip(batch.pairs, foils, strict=True)]
        return at_mean(backbone, batch, [runs(*of) for of in zip(words, differ, tells, strict=True)])


class WithoutPhrase(Difference):
    """Against the text without a phrase: where in the picture that phrase is. The image is explained.

    Args:
        spans: Of the phrase, one for each pair of a batch.
        out: How it is taken out.
    """

    changed: Modality = "text"
    explained = ("image",)

    def __init__(self, spans: Sequence[Span], out: PhraseOut = "mean") -> None:
        check_choice("out", out, get_args(PhraseOut))
        self.spans, self.out = list(spans), out

    def without(self, backbone: Backbone, batch: PairBatch) -> Tensor:
        """Embeddings of the texts without their phrases."""
        if self.out == "mean":
            return at_mean(backbone, batch, [[span] for span in self.spans])
        pairs = zip(batch.pairs, self.spans, strict=True)
        texts = [take_out(pair.text, span, "" if self.out == "deleted" else NEUTRAL) for pair, span in pairs]
        once = list(dict.fromkeys(texts))
        return embed_alone(backbone, "text", once)[[once.index(text) for text in texts]]


class Contest(NamedTuple):
    """How phrases fare against what else could stand in their place.

    Attributes:
        target: (B, E), the direction that a phrase is explained along.
        opposed: (B, E), for what is there in the place of a contested one; zeros for others.
        contested: (B,) bool, whether something that could stand there is in the picture.
        effect: (B,) similarity of the pair minus that with what could stand there, on average.
        shown: (B,) the same as the cosine of the picture with that difference, in [-1, 1].
    """

    target: Tensor
    opposed: Tensor
    contested: Tensor
    effect: Tensor
    shown: Tensor


class AgainstAlike(Target):
    """Against what else could stand in a phrase's place: where in the picture that phrase and nothing like it is.

    Of each word w of the phrase, d_wk = n(full) - n(full with w_k for w), w_1 to w_K the tokens whose embeddings point
    most nearly where that of w does, from the mean of all: for "red" other colours, as the model itself has it. A word
    of several tokens has none like it; it is put at the mean over data, as in `WithoutPhrase`.

    The word that this picture contests most is that with the smallest <n(image), d_wk>, of those that change the text
    at least half as much as any of the phrase: of "a red crab" beside a blue one "red". It is contested where its
    cosine with one of the d_wk is below `CONTESTED`. Then what stands in its place in the text of the smallest
    <n(image), d_wk> is there, and the text and that one are `rivals`, common being the text without the phrase.
    Otherwise t = mean_k d_wk. The image is explained.

    Args:
        spans: Of the phrase, one for each pair of a batch.
        count: K, at least 1.
    """

    weight = 1.25  # of what is not contested; of rivals, and to gather an object, 1 is best

    def __init__(self, spans: Sequence[Span], count: int = ALIKE) -> None:
        check_at_least("count", count, 1)
        self.spans, self.count = list(spans), count

    def directions(self, backbone: Backbone, batch: PairBatch) -> dict[Modality, Tensor]:
        """(B, E), of the length of the difference."""
        return {"image": self.contest(backbone, batch).target}

    def aim(self, backbone: Backbone, batch: PairBatch) -> PairBatch:
        """The batch with its targets; those that are contested are opposed."""
        return self.aim_at(self.contest(backbone, batch), batch)

    def aim_at(self, contest: Contest, batch: PairBatch) -> PairBatch:
        """As `aim`, where the contest is known."""
        weights: dict[Modality, Tensor | float] = {"image": torch.where(contest.contested, 1.0, self.weight)}
        return self._aimed(batch, {"image": contest.target}, {"image": contest.opposed}, weights)

    def contest(self, backbone: Backbone, batch: PairBatch) -> Contest:
        """How the phrases of a batch fare in their pictures."""
        words = [word for row, span in enumerate(self.spans) for word in words_of(row, span, batch)]
        rows = torch.tensor([row for row, _ in words], device=batch.input_ids.device)
        image, text = (unit(backbone, modality, batch)[rows] for modality in ("image", "text"))
        instead = self._instead(backbone, batch, words)
        each = rearrange(text, "w e -> w 1 e") - instead
        falls = along(rearrange(image, "w e -> w 1 e"), each)
        contested = (falls / each.norm(dim=-1).clamp(min=1e-8) < CONTESTED).any(1)
        changes = reduce(each, "w k e -> w e", "mean")
        least, nearest = falls.min(1)
        lengths, chosen = changes.norm(dim=-1), []
        for row in range(len(self.spans)):
            own = (rows == row).nonzero()[:, 0]
            telling = own[lengths[own] >= lengths[own].max() / 2]
            chosen.append(int(telling[least[telling].argmin()]))
        common = at_mean(backbone, batch, [[span] for span in self.spans])
        own, opposed = rivals(text[chosen], instead[chosen, nearest[chosen]], common)
        is_contested = rearrange(contested[chosen], "b -> b 1")
        target = torch.where(is_contested, own, changes[chosen])
        effect = along(image[chosen], changes[chosen])
        shown = effect / lengths[chosen].clamp(min=1e-8)
        return Contest(target, opposed * is_contested, contested[chosen], effect, shown)

    def _instead(self, backbone: Backbone, batch: PairBatch, words: Sequence[tuple[int, Span]]) -> Tensor:
        """(W, K, E) of each word what is in its place, of length 1."""
        tokens = [covered(batch.spans[row], span) for row, span in words]
        one = [index for index, found in enumerate(tokens) if len(found) == 1]
        rows, places = [words[index][0] for index in one], [tokens[index][0] for index in one]
        without = at_mean(backbone, unseen(batch).keep([row for row, _ in words]), [[span] for _, span in words])
        instead = repeat(without, "w e -> w k e", k=self.count).clone()
        if one:
            alike = nearest_tokens(backbone, batch, batch.input_ids[rows, places], self.count)
            ids = repeat(batch.input_ids[rows], "w l -> w k l", k=self.count).clone()
            ids[torch.arange(len(one)), :, places] = alike
            many = unseen(batch).keep([row for row in rows for _ in range(self.count)])
            many = many._replace(input_ids=rearrange(ids, "w k l -> (w k) l"))
            found = F.normalize(backbone.embed("text", many).float(), dim=-1)
            instead[one] = rearrange(found, "(w k) e -> w k e", k=self.count)
        return instead


class WithoutRegion(Difference):
    """Against the picture without a region: which words speak about it. The text is explained.

    Args:
        regions: (H, W) bool, the region in the pixels of each pair's picture.
        out: How it is taken out.
    """

    changed: Modality = "image"
    explained = ("text",)

    def __init__(self, regions: Sequence[np.ndarray], out: RegionOut = "blurred") -> None:
        check_choice("out", out, get_args(RegionOut))
        self.regions, self.out = list(regions), out

    def opposed(self, directions: Mapping[Modality, Tensor]) -> dict[Modality, Tensor]:
        """The opposite, for the rest of the picture: what the text says of that is none of the region's."""
        return {"text": -directions["text"]}

    def without(self, backbone: Backbone, batch: PairBatch) -> Tensor:
        """Embeddings of the pictures without their regions."""
        if self.out == "mean":
            return self._at_mean(backbone, batch)
        pairs = zip(batch.pairs, self.regions, strict=True)
        return embed_alone(backbone, "image", [blur(pair.image, region) for pair, region in pairs])

    def _at_mean(self, backbone: Backbone, batch: PairBatch) -> Tensor:
        layer = default_layer("image", backbone.image.depth, "measured")
        prior = find_priors(backbone, "measured", {"image": layer})["image"].to(batch.pixel_values.device)
        with torch.no_grad():
            hidden = backbone.image.prefix(batch, layer)
            states = hidden.states.clone()
            grids = backbone.image.grids(batch)
            if grids is None:
                raise ValueError("Expected an image tower of patches but it has none. Remedy: out='blurred'.")
            for row, (region, grid) in enumerate(zip(self.regions, grids, strict=True)):
                cells = torch.from_numpy(cells_of(region, batch.views[row], grid).ravel())
                content = (~hidden.special[row]).nonzero()[:, 0]
                states[row, content[cells.to(content.device)]] = prior.mean
            return backbone.image.finish(hidden._replace(states=states), layer)


def rivals(own: Tensor, other: Tensor, common: Tensor) -> tuple[Tensor, Tensor]:
    """The targets of one of two things and of the other in its place, given all and what is left without either.

    With o = own - common and f = other - common they are o - f / 2 and f - o / 2. Each is for "crab", of which nothing
    is in the difference of "a red crab" and "a blue crab": along that, all that is red is as good as a crab that is.
    Neither is for what both captions say besides, "and a tree".

    Args:
        own: (B, E) embeddings of length 1, as are the others.
        other: With the other in its place.
        common: With nothing there.

    Returns:
        (B, E) for the own one and for the other.
    """
    own, other = own - common, other - common
    return own - RIVAL * other, other - RIVAL * own


def at_mean(backbone: Backbone, batch: PairBatch, spans: Sequence[Sequence[Span]]) -> Tensor:
    """(B, E) embeddings of length 1 of the texts, their tokens in some spans replaced by their mean over data."""
    prior = find_priors(backbone, "measured", {"text": "embeddings"})["text"].to(batch.input_ids.device)
    with torch.no_grad():
        hidden = backbone.text.prefix(batch, "embeddings")
        out = torch.zeros_like(hidden.valid)
        for row, of_text in enumerate(spans):
            out[row, [token for span in of_text for token in covered(batch.spans[row], span)]] = True
        states = torch.where(rearrange(out, "b l -> b l 1"), prior.mean, hidden.states)
        return F.normalize(backbone.text.finish(hidden._replace(states=states), "embeddings").float(), dim=-1)


def unseen(batch: PairBatch) -> PairBatch:
    """The texts of a batch without pixels and targets, which are not copied with them."""
    return batch._replace(pixel_values=batch.pixel_values[:, :0], targets=None, weights=None, opposed=None)


def words_in(text: str) -> list[Span]:
    """The (start, end) characters of the words of a text."""
    return [word.span() for word in re.finditer(r"\w+", text)]


def words_or_all(text: str) -> list[Span]:
    """The same; all of the text if there is none."""
    return words_in(text) or [(0, len(text))]


def differing(text: str, foil: str) -> list[bool]:
    """Of each word of a text, whether a foil has another one, or none, in its place; case does not matter.

    >>> differing("a red crab and a tree", "A blue crab, and a key")
    [False, True, False, False, False, True]
    """
    own, other = ([given[start:end].casefold() for start, end in words_or_all(given)] for given in (text, foil))
    found = [True] * len(own)
    for block in difflib.SequenceMatcher(None, own, other, autojunk=False).get_matching_blocks():
        found[block.a : block.a + block.size] = [False] * block.size
    return found


def runs(words: Sequence[Span], differ: Sequence[bool], tells: Tensor) -> list[Span]:
    """The words that differ, with those beside them, one after another, that tell at least half as much as any does.

    >>> runs([(0, 1), (2, 5), (6, 10), (11, 14)], [False, True, False, False], torch.tensor([0.1, 0.8, 0.5, 0.3]))
    [(2, 5), (6, 10)]
    """
    most = max((float(tell) for tell, is_other in zip(tells, differ, strict=True) if is_other), default=0.0)
    each = zip(words, differ, tells.tolist(), strict=True)
    found = [list(run) for wanted, run in groupby(each, lambda word: word[1] or word[2] >= most / 2) if wanted]
    return [span for run in found if any(is_other for _, is_other, _ in run) for span, _, _ in run]


def words_of(row: int, span: Span, batch: PairBatch) -> list[tuple[int, Span]]:
    """The words of a span of a text, each with its row; all of the span if there is none."""
    start, end = span
    found = words_or_all(batch.pairs[row].text[start:end])
    return [(row, (start + first, start + last)) for first, last in found]


def covered(spans: Sequence[Span], span: Span) -> list[int]:
    """The tokens, of these (start, end) characters, that share a character with a span."""
    start, end = span
    return [token for token, (first, last) in enumerate(spans) if first < end and last > start]


def nearest_tokens(backbone: Backbone, batch: PairBatch, ids: Tensor, count: int) -> Tensor:
    """(W, count) ids of the tokens most like tokens (W,), by the cosine of their embeddings less the mean of all.

    Special tokens are like none: a head may look for them.
    """
    with torch.no_grad():
        table = token_table(backbone, batch).float()
        around = F.normalize(table - table.mean(0), dim=-1)
        alike = around[ids] @ around.T
        alike[:, batch.input_ids[no_text(batch)].unique()] = -torch.inf
        alike.scatter_(1, rearrange(ids, "w -> w 1"), -torch.inf)
        return alike.topk(count).indices


def unit(backbone: Backbone, modality: Modality, batch: PairBatch) -> Tensor:
    """(B, E) clean embeddings of length 1."""
    once, rows = batch.distinct()
    return F.normalize(backbone.embed(modality, once).float(), dim=-1)[rows]


def effects(backbone: Backbone, batch: PairBatch, directions: Mapping[Modality, Tensor]) -> Tensor:
    """(B,) how far the clean pairs point along the target of a tower.

    For a difference, the similarity of the pair minus that without; below 0 where it is more similar without.
    """
    modality = next(iter(directions))
    return along(unit(backbone, modality, batch), directions[modality])


def put(batch: PairBatch, rows: Sequence[int], aimed: PairBatch) -> PairBatch:
    """The batch with some of its rows explained against what the rows of another batch are, one for each."""
    at = torch.tensor(rows, dtype=torch.long, device=batch.pixel_values.device)

    def with_rows(
        here: Mapping[Modality, Tensor] | None, there: Mapping[Modality, Tensor] | None
    ) -> dict[Modality, Tensor]:
        assert here is not None and there is not None
        return {modality: value.index_copy(0, at, there[modality]) for modality, value in here.items()}

    return batch._replace(
        targets=with_rows(batch.targets, aimed.targets),
        weights=with_rows(batch.weights, aimed.weights),
        opposed=with_rows(batch.opposed, aimed.opposed),
    )


def take_out(text: str, span: Span, instead: str = "") -> str:
    """A text without the characters of a span; what is left out takes an article before it along.

    >>> take_out("a photo of a red crab and a tree", (13, 21))
    'a photo of and a tree'
    >>> take_out("a photo of a red crab and a tree", (13, 21), "thing")
    'a photo of a thing and a tree'
    """
    start, end = span
    before = text[:start] if instead else re.sub(r"\b(an?|the)\s+$", "", text[:start], flags=re.IGNORECASE)
    left = re.sub(r"\s+", " ", f"{before} {instead} {text[end:]}").strip()
    left = re.sub(r"\s+([,.;:!?])", r"\1", left)
    return left if re.search(r"\w", left) else NEUTRAL


def blur(image: Image.Image, region: np.ndarray) -> Image.Image:
    """A picture with a region (H, W) bool blurred, its border smooth."""
    blurred = image.filter(ImageFilter.GaussianBlur(BLUR * image.width))
    soft = Image.fromarray((255 * region).astype(np.uint8)).filter(ImageFilter.GaussianBlur(image.width / 100))
    return Image.composite(blurred, image, soft)


def box_region(box: Box, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool, the pixels of a box (left, top, right, bottom) in pixels, in a picture of (width, height).

    Raises:
        ValueError: The box holds no pixel of the picture.
    """
    left, top, right, bottom = (round(side) for side in box)
    region = np.zeros((size[1], size[0]), dtype=bool)
    region[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = True
    if not region.any():
        raise ValueError(
            f"Expected a box (left, top, right, bottom) in a picture of {size[0]} x {size[1]} pixels but got {box}. "
            "Remedy: give it in pixels of the picture."
        )
    return region


def cells_of(region: np.ndarray, view: Box, grid: tuple[int, int]) -> np.ndarray:
    """(gh, gw) bool, the cells of a map that a region (H, W) covers by half or more; at least the one it covers most.

    Args:
        region: The region, in the pixels of the picture.
        view: What the model saw of the picture, in fractions.
        grid: The rows and columns of the map, (gh, gw).
    """
    height, width = region.shape
    box = (view[0] * width, view[1] * height, view[2] * width, view[3] * height)
    size = (8 * grid[1], 8 * grid[0])
    seen = Image.fromarray((255 * region).astype(np.uint8)).transform(size, Image.Transform.EXTENT, box)
    share = reduce(np.asarray(seen, dtype=np.float32) / 255, "(gh y) (gw x) -> gh gw", "mean", y=8, x=8)
    return cast(np.ndarray, (share >= 0.5) | (share == share.max()) & (share > 0))
