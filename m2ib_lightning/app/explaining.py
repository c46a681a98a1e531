"""What the page asks of the package: a pair explained step by step, again with other settings, and word by word."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.backbones import Backbone
from m2ib_lightning.methods import M2IB
from m2ib_lightning.methods.mask_fit import MaskFit
from m2ib_lightning.methods.objective import gradients
from m2ib_lightning.parts import Phrase
from m2ib_lightning.phrases import add_parts, aimed, explain_phrases
from m2ib_lightning.types import Asked, Pair

WARM_STEPS = 3
"""Steps from the masks at hand that a first answer to a moved slider takes."""

WORDS = 8
"""The most words of a caption that get a map of their own: those that carry most."""

WORD_SHARE = 0.15
"""Words below this share of the highest one get none."""


UNSAID = ("backbone", "modalities", "loss_terms")
"""Arguments that are said apart, or that the page does not change."""


class Knobs(NamedTuple):
    """What a visitor sets.

    Attributes:
        image_layer: Block after which the image's bottleneck sits.
        image_beta: What a nat costs against similarity in the image.
        against: A caption that the typed one is explained against, "" for none.
    """

    image_layer: int
    image_beta: float
    against: str = ""

    @property
    def arguments(self) -> dict[str, Any]:
        """Those that are arguments of the method."""
        return {"image_layer": self.image_layer, "image_beta": self.image_beta}


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
        return Knobs(tower.layer if isinstance(tower.layer, int) else 0, tower.beta)

    def said(self, knobs: Knobs) -> dict[str, Any]:
        """Arguments of `explain` that make an answer with these settings, those left out that are the default."""
        method, usual = self.method(knobs), inspect.signature(M2IB).parameters
        own = {name: value for name, value in method.settings.items() if name in usual and name not in UNSAID}
        own |= {f"{modality}_layer": layer for modality, layer in method.layers.items()}  # as given, None by default
        named = {} if self.backbone.name == "embedded" else {"backbone": self.backbone.name}
        named |= {"against": knobs.against} if knobs.against else {}
        return named | {name: value for name, value in own.items() if value != usual[name].default}

    def _method(self, knobs: Knobs) -> M2IB:
        usual = self.knobs.arguments
        changes = {name: value for name, value in knobs.arguments.items() if value != usual[name]}
        if not changes:
            return self.default
        method = self.make(**changes)
        method.backbone = self.backbone
        method.prepare()
        return method

    def watch(self, pair: Pair, knobs: Knobs) -> Iterator[Explained]:
        """Explain a pair, and show the masks after every step.

        Raises:
            ValueError: The model cannot read the pair.
        """
        with self.lock:
            asked = pair._replace(asked=Asked(against=knobs.against or None))
            method, batch = self.method(knobs), self.backbone.preprocess_pairs([asked])
            fit = method.new_fit(aimed(self.backbone, batch))
        yield from self._steps(fit, method, knobs)

    def adjust(self, found: Explained, pair: Pair, knobs: Knobs) -> Iterator[Explained]:
        """The same pair with other settings: a first answer from the masks at hand, then the exact one.

        Where the layer stays, what was computed before the bottleneck is kept.
        """
        if (found.knobs.image_layer, found.knobs.against) != (knobs.image_layer, knobs.against):
            yield from list(self.watch(pair, knobs))[-1:]
            return
        fit, method = found.fit, self.method(knobs)
        fit.towers["image"] = fit.towers["image"]._replace(beta=knobs.image_beta)
        masks = {m: fit.bottleneck(m).alpha.detach().clone() for m in fit.towers}
        fit.restart()
        for modality, alpha in masks.items():
            fit.bottleneck(modality).alpha.data = alpha
        yield from list(self._steps(fit, method, knobs, WARM_STEPS))[-1:]
        fit.restart()
        yield from list(self._steps(fit, method, knobs))[-1:]

    def _steps(self, fit: MaskFit, method: M2IB, knobs: Knobs, warm: int = 0) -> Iterator[Explained]:
        optimizer = method.new_optimizer(fit.parameters())
        steps = warm or method.steps
        for step in range(1, steps + 1):
            # Steps of one generator may run in different threads, and grad mode belongs to a thread.
            with self.lock, gradients():
                fit.step(optimizer)
                (attribution,) = add_parts(method, fit.batch, method.results(fit))
                last = step == steps or not bool(fit.stopping.running.any())
            yield Explained(attribution, knobs, fit, exact=last and not warm)
            if last:
                return

    def by_word(self, pair: Pair, found: Attribution) -> dict[int, Phrase]:
        """For the words that carry most of the caption, by their place in it: where in the picture each of them is."""
        words = found.word_spans()
        top = max((value for *_, value in words), default=0.0)
        ranked = sorted(range(len(words)), key=lambda i: -words[i][2])
        strong = [i for i in ranked[:WORDS] if top > 0 and words[i][2] >= WORD_SHARE * top]
        chosen = {i: words[i][:2] for i in strong if pair.text[slice(*words[i][:2])].isalnum()}
        with self.lock:
            batch = self.backbone.preprocess_pairs([pair])
            (phrases,) = explain_phrases(self.default, batch, [list(chosen.values())])
        return dict(zip(chosen, phrases, strict=True))
