"""The whole page: its tabs, its look, and how it is launched.

The one place that knows of every tab. Heavy libraries are imported by a thread once the page is up.
"""

from __future__ import annotations

import threading
from typing import Any

import gradio as gr

from vlcompare.ui import compare_page, wiring
from vlcompare.ui.handlers import Handlers
from vlcompare.ui.markup import el
from vlcompare.ui.settings import AppSettings
from vlcompare.ui.theme import launch_look


def build_page(settings: AppSettings, handlers: Handlers | None = None) -> gr.Blocks:
    """The page for these settings. handlers: given by tests, to answer with a fake."""
    handlers = handlers or real_handlers(settings)
    with gr.Blocks(title="vlcompare", analytics_enabled=False, fill_width=True, delete_cache=(600, 3600)) as page:
        gr.HTML(
            el(
                "header",
                el("h1", "Two models, one picture"),
                el("p", "A Transformer and a state-space model answer side by side, with the cost of every token."),
                class_="vl-title",
            )
        )
        parts = compare_page.build(handlers)
        wiring.wire(parts, handlers)
    page.queue(max_size=settings.limits.queue, default_concurrency_limit=8)
    return page


def real_handlers(settings: AppSettings) -> Handlers:
    """Handlers over the package's own engine."""
    from vlcompare.compare import compare
    from vlcompare.runtime.residency import ModelPool

    return Handlers(settings, compare, ModelPool(settings.budget_bytes))


def launch(page: gr.Blocks, settings: AppSettings, **more: Any) -> Any:
    """Serve the page. Nothing is shared or logged unless the operator asks for it."""
    options: dict[str, Any] = {
        "server_name": settings.host,
        "server_port": settings.port,
        "share": False,
        "max_file_size": settings.limits.file_bytes,
        "mcp_server": True,
        "show_error": True,
        "quiet": True,
        "ssr_mode": False,
        "footer_links": ["api"],
        **launch_look(),
        **more,
    }
    return page.launch(**options)


def warm_up(settings: AppSettings, handlers: Handlers) -> threading.Thread:
    """Import the heavy libraries, and load what is to be preloaded, behind the visitor's back."""

    def work() -> None:
        import torch  # noqa: F401  the slowest import, done while nobody waits for it

        from vlcompare.runtime.residency import ModelKey

        for name in settings.preload:
            key = ModelKey(name, settings.quantization, settings.device)
            with handlers.pool.acquire(key):
                pass

    thread = threading.Thread(target=work, daemon=True, name="vlcompare-warm-up")
    thread.start()
    return thread
