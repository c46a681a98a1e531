"""Serving the page: to this machine alone, with nothing from elsewhere, and nothing kept."""

from __future__ import annotations

import os
import socket
from importlib import resources
from typing import TYPE_CHECKING

from m2ib_lightning.app.explaining import Explainer
from m2ib_lightning.app.pictures import MOST_BYTES

if TYPE_CHECKING:
    import gradio as gr
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

MOST_VISITS = 100
"""Visitors whose state is kept; the one who came first is forgotten first."""

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; connect-src 'self' blob: data:; "
    "worker-src 'self' blob:; frame-src 'self'; object-src 'none'; form-action 'none'"
)
"""What browsers load for the page: only what it brings itself."""

HEADERS = {
    b"content-security-policy": POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
}
"""Of every answer."""


def serve(explainer: Explainer, port: int | None = None, open_browser: bool = False, share: bool = False) -> gr.Blocks:
    """Start serving and return at once; `close` on the result ends it.

    Args:
        explainer: The model and method that answer.
        port: By default the first free one from 7860.
        open_browser: Whether to open the page.
        share: Whether Gradio makes a public address that tunnels to this machine.

    Raises:
        ValueError: The port is taken.
    """
    from starlette.middleware import Middleware

    from m2ib_lightning.app.page import build

    if port is not None and _is_taken(port):
        raise ValueError(f"Expected a free port but {port} is taken. Remedy: choose another --port, or leave it out.")
    blocks = build(explainer)
    blocks.queue(default_concurrency_limit=4, max_size=200).launch(
        # A Hugging Face Space has a proxy in front.
        server_name="0.0.0.0" if "SPACE_ID" in os.environ else "127.0.0.1",
        server_port=port,
        inbrowser=open_browser,
        share=share,
        quiet=True,
        prevent_thread_lock=True,
        ssr_mode=False,
        pwa=False,
        max_file_size=MOST_BYTES,
        state_session_capacity=MOST_VISITS,
        footer_links=[],
        app_kwargs={"middleware": [Middleware(Headers)], "docs_url": None, "redoc_url": None, "openapi_url": None},
        theme=_theme(),
        css=(resources.files("m2ib_lightning") / "app" / "page.css").read_text("utf-8"),
    )
    return blocks


def _is_taken(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def _theme() -> gr.themes.Base:
    """Fonts of the visitor's machine, and colours dark enough to be read."""
    import gradio as gr

    return gr.themes.Default(
        primary_hue="blue",
        neutral_hue="slate",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        block_info_text_color="*neutral_600",
        block_label_text_color="*neutral_700",
        block_title_text_color="*neutral_800",
        body_text_color_subdued="*neutral_600",
        input_placeholder_color="*neutral_500",
        color_accent="*primary_700",
    )


class Headers:
    """Adds `HEADERS` to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, with the headers."""

        async def send_with(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [(name, value) for name, value in message["headers"] if name.lower() not in HEADERS]
                message = {**message, "headers": [*kept, *HEADERS.items()]}
            await send(message)

        await self.app(scope, receive, send_with)
