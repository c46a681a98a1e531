"""The page: what is on it, and which handler answers to what."""

from __future__ import annotations

from html import escape
from importlib import resources
from typing import Any

import gradio as gr

from m2ib_lightning.app.examples import EXAMPLES
from m2ib_lightning.app.explaining import Explainer
from m2ib_lightning.app.handlers import Handlers, Visit
from m2ib_lightning.app.many import KINDS
from m2ib_lightning.app.side_by_side import NOTES
from m2ib_lightning.app.view import message
from m2ib_lightning.display import HEAT, colours
from m2ib_lightning.inline import bytes_text, small_address

HERE = resources.files("m2ib_lightning") / "app"
ONE_AT_A_TIME: dict[str, Any] = {
    "concurrency_id": "model", "concurrency_limit": 1, "trigger_mode": "always_last", "show_progress": "hidden",
    "api_visibility": "private",
}  # fmt: skip
AT_ONCE: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def build(explainer: Explainer) -> gr.Blocks:
    """The page, ready to be served by `serving.serve`."""
    page, knobs = Handlers(explainer), explainer.knobs
    deepest = explainer.backbone.image.depth - 2
    with gr.Blocks(title="Why do they match?", analytics_enabled=False, delete_cache=(60, 900)) as blocks:
        visit = gr.State(Visit(), time_to_live=3600)
        chosen = gr.State(0)
        gr.Markdown(_introduction(explainer))
        with gr.Tab("One pair"), gr.Row(equal_height=False, elem_id="pair"):
            with gr.Column(elem_id="asked", min_width=280):
                picture = gr.Image(
                    type="filepath", label="Picture: drop, paste, or take one", height=240, buttons=[],
                    sources=["upload", "clipboard", "webcam"], elem_id="picture",
                )  # fmt: skip
                # Not opened on the way: what is wrong with a file is ours to say.
                picture.preprocess = _path  # type: ignore[method-assign]
                caption = gr.Textbox(label="Caption", placeholder="a cat", max_length=1000, elem_id="caption")
                foil = gr.Textbox(
                    label="Rather than (optional)", placeholder="another caption", max_length=1000, elem_id="foil",
                    info="What speaks for the caption and not for this one.",
                )  # fmt: skip
                go = gr.Button("Explain", variant="primary", elem_id="explain")
                examples = gr.HTML(
                    html_template=_examples(), css_template=_file("examples.css"), elem_id="examples",
                    js_on_load="element.querySelectorAll('button').forEach((b, i) =>"
                    " b.addEventListener('click', () => trigger('select', {index: i})))",
                )  # fmt: skip
            with gr.Column(elem_id="answered", min_width=280):
                shown = gr.HTML(
                    value=message("Drop a picture, or choose an example."), picture="",
                    colours=bytes_text(255 * colours(HEAT)), elem_id="view",
                    html_template=_file("view.html"), css_template=_file("view.css"),
                    js_on_load=_file("view.js"),
                )  # fmt: skip
            with gr.Column(elem_id="further", min_width=280):
                with gr.Accordion("Settings", open=True):
                    trade = gr.Radio(
                        [("by a price (beta)", "beta"), ("to a share of the similarity (keep)", "keep")],
                        value="keep" if knobs.keep else "beta", label="Compress", elem_id="trade",
                    )  # fmt: skip
                    beta = gr.Slider(
                        0.1, 30, knobs.image_beta, step=0.1, label="Compression of the picture (beta)", elem_id="beta",
                        info="More: fewer patches, and less of the similarity is left.", visible=not knobs.keep,
                    )  # fmt: skip
                    keep = gr.Slider(
                        0.5, 1, knobs.keep or 0.9, step=0.01, label="Share of the similarity to keep (keep)",
                        info="Picture and caption are each compressed as far as that allows.", elem_id="keep",
                        visible=bool(knobs.keep),
                    )  # fmt: skip
                    layer = gr.Slider(
                        0, deepest, knobs.image_layer, step=1, label="Layer of the picture", elem_id="layer",
                        info="The block behind which noise is mixed in.",
                    )  # fmt: skip
                with gr.Accordion("Copy as code", open=False):
                    python = gr.Code(label="Python", language="python", interactive=False, elem_id="python")
                    command = gr.Code(label="Command", language="shell", interactive=False, elem_id="command")
                with gr.Accordion("Save", open=False):
                    save = gr.Button("Prepare files", elem_id="save")
                    ready = gr.Markdown()
                    files = gr.File(label="Files", file_count="multiple", interactive=False, elem_id="files")
        with gr.Tab("Methods side by side"):
            gr.Markdown("The pair of the first tab, explained by other methods. Their maps are in units of their own.")
            others = gr.CheckboxGroup(
                list(NOTES)[1:], value=["Chefer", "GradECLIP"], label="Methods", elem_id="methods"
            )
            beside = gr.Button("Compare", variant="primary", elem_id="compare")
            cards = gr.HTML(css_template=_file("cards.css"), html_template="${value}", value="", elem_id="cards")
        with gr.Tab("A folder or table"):
            gr.Markdown(
                "Pictures each with its caption in a .txt file of the same name (cat.png, cat.txt), or a CSV, TSV or "
                "JSON Lines file with the columns image and text together with its pictures. Up to 500 pairs."
            )
            given = gr.File(label="Files", file_count="multiple", file_types=list(KINDS), elem_id="given")
            run = gr.Button("Explain all", variant="primary", elem_id="run")
            state = gr.HTML(elem_id="state")
            archive = gr.DownloadButton("Download results and pictures", visible=False, elem_id="archive")
            gallery = gr.HTML(
                css_template="iframe { width: 100%; height: 80vh; border: 1px solid #8884; }", elem_id="gallery"
            )

        answer = [shown, visit, python, command]
        asked = [visit, caption, foil, layer, beta, trade, keep]

        read = picture.input(page.read, picture, [visit, shown], **AT_ONCE)
        picked = examples.select(_index, None, chosen, **AT_ONCE).then
        for event in (picked, blocks.load):
            event(page.example, chosen, [visit, picture, caption, foil, shown], **AT_ONCE).then(
                page.explain, asked, answer, **ONE_AT_A_TIME
            )
        for event in (read.then, go.click, caption.submit, foil.submit):
            event(page.explain, asked, answer, **ONE_AT_A_TIME)
        for knob in (beta, layer, trade, keep):
            knob.input(page.adjust, asked, answer, **ONE_AT_A_TIME)
        shown.select(page.find_word, visit, answer, **ONE_AT_A_TIME)
        trade.input(_shown_for, trade, [beta, keep], **AT_ONCE)
        save.click(page.save, visit, [files, ready], **AT_ONCE)
        beside.click(page.side_by_side, [others, *asked], cards, **ONE_AT_A_TIME)
        run.click(
            page.many,
            given,
            [state, gallery, archive],
            show_progress="hidden",
            api_visibility="private",
            concurrency_limit=1,
        )
    return blocks


def _index(event: gr.EventData) -> int:
    """Which example was chosen; what the browser says is checked."""
    index = event._data.get("index") if isinstance(event._data, dict) else 0
    return index if isinstance(index, int) and 0 <= index < len(EXAMPLES) else 0


def _shown_for(trade: str) -> tuple[Any, Any]:
    """The slider that says what was chosen, and not the other."""
    return gr.Slider(visible=trade == "beta"), gr.Slider(visible=trade == "keep")


def _path(payload: Any) -> str | None:
    """Where an upload lies."""
    return payload.path if payload else None


def _introduction(explainer: Explainer) -> str:
    said = "# Why do a picture and a caption match?\nWhich patches and which words a model needs to find them similar."
    if explainer.backbone.name == "embedded":
        said += (
            " The model inside the package knows drawings of 66 objects and little of photographs; "
            "`--model.backbone` takes a real CLIP."
        )
    return said


def _examples() -> str:
    buttons = "".join(
        f'<button type="button"><img src="{small_address(e.picture(), 96)}" alt="">'
        f"<span>{escape(e.caption)}</span></button>"
        for e in EXAMPLES
    )
    return f'<div class="examples" role="group" aria-label="Examples">{buttons}</div>'


def _file(name: str) -> str:
    return (HERE / name).read_text("utf-8")
