"""What happens when a visitor does something, and what the server keeps of him."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any, Literal

import gradio as gr
import yaml
from PIL import Image

from m2ib_lightning.app.code import as_command, as_python
from m2ib_lightning.app.examples import EXAMPLES, Example
from m2ib_lightning.app.explaining import Explained, Explainer, Knobs
from m2ib_lightning.app.many import explain_all
from m2ib_lightning.app.pictures import SHOWN, SIDE, read_picture
from m2ib_lightning.app.side_by_side import compare
from m2ib_lightning.app.view import frame, message, phrase_of_words, view
from m2ib_lightning.attribution import Attribution
from m2ib_lightning.inline import small_address
from m2ib_lightning.types import Pair

UNCHANGED = (gr.skip(),) * 4
"""What a handler says that leaves the answer as it is."""


@dataclass(frozen=True, eq=False)
class Visit:
    """What the server keeps of one visitor, and of no other.

    Attributes:
        picture: As it was read; None before one is given.
        source: The picture's file, or an expression that makes it.
        reduced: Whether it was larger.
        found: The last answer that was given.
        frames: Steps of the last fit, as the page is told them.
        problem: Why there is no picture.
    """

    picture: Image.Image | None = None
    source: str = ""
    reduced: bool = False
    found: Explained | None = None
    frames: tuple[dict[str, Any], ...] = ()
    problem: str = ""

    def pair(self, caption: str) -> Pair:
        """The pair with a caption.

        Raises:
            ValueError: There is no picture or no caption yet.
        """
        if self.picture is None:
            raise ValueError(self.problem or "Drop a picture first, or choose an example.")
        if not caption.strip():
            raise ValueError("Type a caption first: what should be in the picture?")
        return Pair("picture", self.picture, caption.strip(), "" if "(" in self.source else self.source)


class Handlers:
    """The handlers of the page.

    Args:
        explainer: The model and method that answer.
    """

    def __init__(self, explainer: Explainer) -> None:
        self.explainer = explainer
        # As files: Gradio would write a picture in memory anew for each visitor, under one name, while others read it.
        self._folder = tempfile.TemporaryDirectory(prefix="m2ib-")
        self.examples = [Path(self._folder.name) / f"{example.seed}.png" for example in EXAMPLES]
        for example, file in zip(EXAMPLES, self.examples, strict=True):
            example.picture().save(file)

    def read(self, path: str | None) -> tuple[Visit, Any]:
        """A picture was given, or taken away."""
        if path is None:
            return Visit(), gr.HTML(value=message("Drop a picture, or choose an example."), picture="")
        try:
            picture = read_picture(path)
        except ValueError as problem:
            return Visit(problem=str(problem)), gr.HTML(value=message(str(problem), error=True), picture="")
        visit = Visit(picture, Path(path).name, max(picture.size) == SIDE)
        return visit, gr.HTML(
            value=message("Type a caption to see why it matches, or not."), picture=small_address(picture, SHOWN)
        )

    def example(self, index: int) -> tuple[Visit, Any, Any, Any, Any]:
        """An example was chosen."""
        example: Example = EXAMPLES[index]
        picture = example.picture()
        shown = gr.HTML(value=message("Explaining …"), picture=small_address(picture, SHOWN))
        return Visit(picture, example.source), self.examples[index], example.caption, example.foil, shown

    def explain(self, visit: Visit, caption: str, foil: str, *settings: Any) -> Iterator[tuple[Any, ...]]:
        """Explain the pair and show the masks at every step."""
        if visit.picture is None and not caption.strip():
            yield UNCHANGED
            return
        frames: list[dict[str, Any]] = []
        answered = False
        try:
            for found in self.explainer.watch(visit.pair(caption), knobs_of(foil, *settings)):
                if not answered:
                    frames.append(frame(found.attribution))
                answered = found.exact
                if answered:
                    yield self._answer(replace(visit, found=found, frames=tuple(frames)))
                else:
                    total = self.explainer.default.steps
                    yield view(found.attribution, frames, running=True, total=total), gr.skip(), gr.skip(), gr.skip()
        except ValueError as problem:
            asked = bool(visit.problem) or (visit.picture is not None and bool(caption.strip()))
            yield message(str(problem), error=asked), gr.skip(), "", ""

    def adjust(self, visit: Visit, caption: str, foil: str, *settings: Any) -> Iterator[tuple[Any, ...]]:
        """A slider was moved: the caption and foil stay those that are shown."""
        if visit.found is None:
            yield UNCHANGED
            return
        for found in self.explainer.adjust(visit.found, knobs_of(visit.found.knobs.against, *settings)):
            yield self._answer(replace(visit, found=found, frames=(frame(found.attribution),)))

    def find_word(self, visit: Visit, event: gr.EventData) -> tuple[Any, ...]:
        """A word was pointed at whose region is not there yet; that of another caption is passed over."""
        asked = event._data if isinstance(event._data, dict) else {}
        found, place = visit.found, asked.get("index")
        if found is None or not found.exact or found.attribution.text != asked.get("text") or type(place) is not int:
            return UNCHANGED
        if place not in range(len(found.attribution.words())) or place in phrase_of_words(found.attribution):
            return UNCHANGED
        return self._answer(replace(visit, found=self.explainer.find_word(found, place)))

    def _answer(self, visit: Visit) -> tuple[Any, ...]:
        assert visit.found is not None
        found, knobs = visit.found.attribution, visit.found.knobs
        shown = view(found, visit.frames, exact=visit.found.exact, against=knobs.against)
        said = self.explainer.said(visit.found)
        return (
            shown,
            visit,
            as_python(visit.source, visit.reduced, found.text, said),
            as_command(visit.source, visit.reduced, found.text, said),
        )

    def side_by_side(self, chosen: Sequence[str], visit: Visit, caption: str, *settings: Any) -> Iterator[str]:
        """Other methods on the same pair."""
        try:
            yield from compare(self.explainer, visit.pair(caption), knobs_of(*settings), chosen)
        except ValueError as problem:
            yield f'<p role="alert">{escape(str(problem))}</p>'

    def save(self, visit: Visit) -> tuple[Any, str]:
        """Files of what is on the page."""
        if visit.found is None or visit.picture is None:
            return None, "Nothing is explained yet."
        return save_files(visit.found.attribution, visit.picture), "Ready:"

    def many(self, files: Sequence[str] | None) -> Iterator[tuple[Any, ...]]:
        """Explain what was uploaded, show how far it is and at last the gallery."""
        if not files:
            yield "Choose files first.", gr.skip(), gr.skip()
            return
        try:
            for state in explain_all(self.explainer, files, Path(tempfile.mkdtemp(prefix="m2ib-"))):
                bad = "".join(f"<li>{escape(reason)}</li>" for reason in state.bad)
                said = f'<p role="status">{state.done} of {state.total} pairs</p>'
                said += f'<progress max="{state.total}" value="{state.done}"></progress>'
                said += f"<p>Not explained:</p><ul>{bad}</ul>" if bad else ""
                if state.archive is None:
                    yield said, gr.skip(), gr.skip()
                else:
                    # Without an origin of its own the gallery reaches nothing of this page.
                    page = escape(state.gallery)
                    inside = f'<iframe title="Gallery of the results" sandbox="allow-scripts" srcdoc="{page}"></iframe>'
                    yield said, inside, gr.DownloadButton(value=str(state.archive), visible=True)
        except ValueError as problem:
            yield f'<p role="alert">{escape(str(problem))}</p>', "", gr.DownloadButton(visible=False)


def knobs_of(foil: str, layer: float, beta: float, trade: Literal["beta", "keep"], keep: float) -> Knobs:
    """What the page's inputs say."""
    return Knobs(int(layer), beta, keep if trade == "keep" else None, foil.strip())


def save_files(found: Attribution, picture: Image.Image) -> list[str]:
    """PNG, SVG, the attribution and its settings, in a folder that the page removes."""
    from m2ib_lightning.report.figure import save_pair_figure

    folder = Path(tempfile.mkdtemp(prefix="m2ib-"))
    save_pair_figure(found, picture, folder / "explained.png")
    save_pair_figure(found, picture, folder / "explained.svg")
    found.save(folder / "attribution.npz")
    (folder / "settings.yaml").write_text(yaml.safe_dump(found.settings, sort_keys=False), "utf-8")
    picture.save(folder / "picture.png")
    return [str(file) for file in sorted(folder.iterdir())]
