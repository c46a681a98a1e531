"""What the page asks of the package: a pair explained step by step, again with other settings, and word by word."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.backbones import Backbone
from m2ib_lightning.methods import M2IB
from m2ib_lightning.methods.m2ib import BETAS
from m2ib_lightning.methods.mask_fit import MaskFit
from m2ib_lightning.methods.objective import gradients
from m2ib_lightning.parts import find_spans
from m2ib_lightning.phrases import add_parts, aimed, explain_phrases, strongest_phrases
from m2ib_lightning.types import Asked, Pair, Span

WARM_STEPS = 3
"""Steps from the masks at hand that a first answer to a moved slider takes, at twice the learning rate.

Their logits are brought to where they can still move, 1.5 + alpha / 4. On four scenes (seeds 50 to 53) and five changes
the picture's map correlates with the exact one by 0.97 (least 0.89), and by 0.91 (0.72) if they stay as they are.
"""

UNSAID = ("backbone", "modalities", "loss_terms")
"""Arguments that are said apart, or that the page does not change."""


class Knobs(NamedTuple):
    """What a visitor sets.

    Attributes:
        image_layer: Block after which the image's bottleneck sits.
        image_beta: What a nat costs against similarity in the image.
        keep: Instead of that, the share of the similarity that is to be left, None for beta.
        against: A caption that the typed one is explained against, "" for none.
    """

    image_layer: int
    image_beta: float
    keep: float | None = None
    against: str = ""

    @property
    def arguments(self) -> dict[str, Any]:
        """Those that are arguments of the method."""
        trade = {"image_beta": self.image_beta, "keep": None} if self.keep is None else BETAS | {"keep": self.keep}
        return {"image_layer": self.image_layer, **trade}

    def asked(self, pair: Pair) -> Pair:
        """The pair, to be explained against the foil."""
        return pair._replace(asked=Asked(against=self.against or None))


@dataclass(eq=False)
class Explained:
    """An answer, and what the next one can start from.

    Attributes:
        attribution: As `m2ib.explain` would give it once `exact` is true.
        knobs: What it was made with.
        fit: Its masks, with the hidden states before the bottleneck.
        exact: Whether it is a finished fit; else masks on their way.
    """

    attribution: Attribution
    knobs: Knobs
    fit: MaskFit
    exact: bool


class Explainer:
    """One model and one method that all visitors share; computes for one of them at a time.

    Args:
        make: Gives the method with some of its arguments changed.
    """

    def __init__(self, make: Callable[..., M2IB] = M2IB) -> None:
        self.make, self.default = make, make()
        self.backbone: Backbone = self.default.prepare()
        # Models are not made for several threads, and two fits at once would take longer than one after the other.
        self.lock = threading.Lock()
        self.method = lru_cache(maxsize=16)(self._method)

    @property
    def knobs(self) -> Knobs:
        """Where a visitor starts."""
        tower = self.default.towers["image"]
        return Knobs(tower.layer if isinstance(tower.layer, int) else 0, tower.beta, self.default.keep)

    def said(self, found: Explained) -> dict[str, Any]:
        """Arguments of `explain` that make an answer, those left out that are the default."""
        knobs = found.knobs
        method, usual = self.method(knobs), inspect.signature(M2IB).parameters
        own = {name: value for name, value in method.settings.items() if name in usual and name not in UNSAID}
        own |= {f"{modality}_layer": layer for modality, layer in method.layers.items()}  # as given, None by default
        named: dict[str, Any] = {} if self.backbone.name == "embedded" else {"backbone": self.backbone.name}
        named |= {"against": knobs.against} if knobs.against else {}
        named |= {"phrases": _said_phrases(found.attribution)} if self.finds_phrases else {}
        return named | {name: value for name, value in own.items() if value != usual[name].default}

    def _method(self, knobs: Knobs) -> M2IB:
        usual = self.knobs.arguments
        changes = {name: value for name, value in knobs.arguments.items() if name not in usual or value != usual[name]}
        if not changes:
            return self.default
        method = self.make(**changes)
        method.backbone = self.backbone
        method.prepare()
        return method

    @property
    def finds_phrases(self) -> bool:
        """Whether the words that carry most are looked for in the picture: both halves are explained."""
        return len(self.default.modalities) == 2

    def watch(self, pair: Pair, knobs: Knobs) -> Iterator[Explained]:
        """Explain a pair and show the masks after every step; at last, its words in the picture.

        Raises:
            ValueError: The model cannot read the pair.
        """
        with self.lock:
            method, batch = self.method(knobs), self.backbone.preprocess_pairs([knobs.asked(pair)])
            fit = method.new_fit(aimed(self.backbone, batch))
        yield from self._steps(fit, method, knobs)
        yield from self._with_phrases(fit, method, knobs)

    def adjust(self, found: Explained, knobs: Knobs) -> Iterator[Explained]:
        """The same pair with other settings: a first answer from the masks at hand, then the exact one.

        Where the layer stays, what was computed before the bottleneck is kept, but for pairs against a foil, whose
        fits are of two kinds.
        """
        fit, method = found.fit, self.method(knobs)
        masks = fit.masks()
        if found.knobs.image_layer == knobs.image_layer and fit.batch.opposed is None:
            fit.set_up(method.towers, method.keep)
        else:
            with self.lock:
                fit = method.new_fit(fit.batch)
        fit.put_masks([{modality: 1.5 + alpha / 4 for modality, alpha in each.items()} for each in masks])
        yield from self._steps(fit, method, knobs, WARM_STEPS, watched=False)
        fit.restart()
        yield from self._steps(fit, method, knobs, watched=False)
        yield from self._with_phrases(fit, method, knobs)

    def find_word(self, found: Explained, place: int) -> Explained:
        """The answer, with the region of one more word of the caption."""
        start, end, _ = found.attribution.word_spans()[place]
        with self.lock:
            ((phrase,),) = explain_phrases(self.method(found.knobs), found.fit.batch, [[(start, end)]])
        a = found.attribution
        return replace(found, attribution=replace(a, phrases=[*a.phrases, phrase]))

    def _steps(
        self, fit: MaskFit, method: M2IB, knobs: Knobs, warm: int = 0, watched: bool = True
    ) -> Iterator[Explained]:
        optimizer = method.new_optimizer(fit.parameters())
        for group in optimizer.param_groups:
            group["lr"] *= 2 if warm else 1
        steps = warm or method.steps
        for step in range(1, steps + 1):
            # Steps of one generator may run in different threads, and grad mode belongs to a thread.
            with self.lock, gradients():
                fit.step(optimizer)
                last = step == steps or not bool(fit.stopping.running.any())
                found = add_parts(method, fit.batch, method.results(fit)) if last or watched else []
            for attribution in found:
                yield Explained(attribution, knobs, fit, exact=last and not warm)
            if last:
                return

    def _with_phrases(self, fit: MaskFit, method: M2IB, knobs: Knobs) -> Iterator[Explained]:
        with self.lock:
            results = method.results(fit)
            if not self.finds_phrases or results[0].text_map is None:
                return
            asked = tuple(pair._replace(asked=pair.asked._replace(phrases="auto")) for pair in fit.batch.pairs)
            (found,) = add_parts(method, fit.batch._replace(pairs=asked), results)
        yield Explained(found, knobs, fit, exact=True)


def _said_phrases(a: Attribution) -> str | list[str | Span]:
    """What to ask for to have the phrases that are shown: "auto", or each by itself once others were pointed at."""
    spans = [phrase.span for phrase in a.phrases]
    if not set(spans) - set(strongest_phrases(a)):
        return "auto"
    return [a.text[slice(*span)] if find_spans(a.text, [a.text[slice(*span)]]) == [span] else span for span in spans]
