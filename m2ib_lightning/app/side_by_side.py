"""Other methods next to M2IB on the same pair: what each says, how long it takes and where it is known to fail."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from html import escape

from PIL import Image

from m2ib_lightning import methods
from m2ib_lightning.app.explaining import Explainer, Knobs
from m2ib_lightning.attribution import Attribution
from m2ib_lightning.display import words_html
from m2ib_lightning.inline import small_address
from m2ib_lightning.types import Pair

MOST = 6
"""Methods at once."""

NOTES = {
    "M2IB": "One map for the whole caption: it lies on everything that the caption names, wherever its words stand.",
    "AttentionRollout": "Does not look at the other half: a picture has the same map for every caption.",
    "Chefer": "Nothing below 0. On scenes it rarely finds the one word that names the object.",
    "GradCAM": "Can be 0 everywhere, where the gradient at its layer is negative. On scenes, poor at words.",
    "GradECLIP": "On scenes it nearly never finds the word that names the object.",
    "IntegratedGradients": "Begins at a grey picture: what is of that grey gets nothing.",
    "ExCLIP": "Its maps are those of IntegratedGradients; which patch goes with which word is not shown here.",
    "LeGrad": "Points well, but 82 % of its map lie beside the named object.",
    "NIB": "On scenes its highest pixel misses the named object more often than not, and its text map the naming word.",
    "Occlusion": "Hides a patch at a time: what another patch shows as well is not missed.",
    "Saliency": "No sign. On scenes its highest pixel misses the named object in 42 % of the pictures; good at words.",
    "SmoothGrad": "Slow. No sign. On scenes 18 % of its map lie on the named object.",
    "KernelSHAP": "Slow, a thousand versions of the input. Good at both on scenes. Other seeds, other values.",
    "FIxLIP": "Slow, a thousand versions of either half, 0 where something is hidden. Other seeds, other values.",
    "RISE": "Very slow, thousands of masked inputs. Values nearly all alike: 7 % of its map lie on the named object.",
    "RandomMap": "Noise, for comparison: what looks no better says nothing.",
    "CentrePrior": "The centre, for comparison: what looks no better says nothing.",
    "UniformMap": "The same everywhere, for comparison: what looks no better says nothing.",
}
"""The methods, quick ones first, and where each is known to fail: the table of scripts/README.md, and what the formulas
say."""


def compare(explainer: Explainer, pair: Pair, knobs: Knobs, chosen: Sequence[str]) -> Iterator[str]:
    """HTML with a card for each method, growing as they finish.

    Args:
        explainer: The model, and M2IB.
        pair: The pair.
        knobs: M2IB's settings, and the foil for all.
        chosen: The others' names.

    Raises:
        ValueError: Too many are chosen, or the model cannot be explained by one of them.
    """
    if len(chosen) > MOST:
        raise ValueError(f"Expected at most {MOST} methods at once but got {len(chosen)}. Remedy: choose fewer.")
    done: list[str] = []
    for name in ("M2IB", *chosen):
        yield _page(done, f"{name} is computing …")
        with explainer.lock:
            start = time.perf_counter()
            try:
                found = _explain(explainer, pair, knobs, name)
                done.append(_card(name, found, pair.image, time.perf_counter() - start))
            except ValueError as problem:
                done.append(f"<article><h3>{name}</h3><p>{escape(str(problem))}</p></article>")
    yield _page(done, "")


def _explain(explainer: Explainer, pair: Pair, knobs: Knobs, name: str) -> Attribution:
    method = explainer.method(knobs) if name == "M2IB" else getattr(methods, name)(backbone=explainer.backbone)
    return method.explain(method.prepare().preprocess_pairs([knobs.asked(pair)]))[0]


def _page(cards: Sequence[str], status: str) -> str:
    return f'<p role="status">{status}</p><div class="cards">{"".join(cards)}</div>'


def _card(name: str, a: Attribution, picture: Image.Image, seconds: float) -> str:
    small = picture.copy()
    small.thumbnail((256, 256))
    shaded = words_html([(word, value, math.nan) for word, value in a.words()], unit=a.unit)
    return (
        f'<article><h3>{name}</h3><img src="{small_address(a.overlay(small), 256)}" alt="Map of {name}">{shaded}'
        f"<p>{escape(_unit(a.unit))}; {seconds:.1f} s</p><p>{escape(NOTES[name])}</p></article>"
    )


def _unit(unit: str) -> str:
    return {"1": "no unit", "cos": "in units of the similarity", "share": "shares"}.get(unit, f"in {unit}")
