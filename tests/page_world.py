"""The page with a fake comparison behind it, for browser tests that need no model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ui_fakes import FakeCompare, write_examples


@contextmanager
def serving(folder: Path, gap: float = 0.0, **settings: Any) -> Iterator[SimpleNamespace]:
    """The page on a free port, with examples and a data folder of its own in `folder`; settings: of AppSettings."""
    from vlcompare.runtime.image import open_image
    from vlcompare.ui import examples
    from vlcompare.ui.compare.handlers import Handlers
    from vlcompare.ui.page import build_page, launch
    from vlcompare.ui.settings import AppSettings

    before, examples.FOLDER = examples.FOLDER, write_examples(folder / "examples")
    chosen = AppSettings(data=folder / "data-folder", **settings)
    fake = FakeCompare(gap=gap)
    page = build_page(chosen, Handlers(chosen, fake, None, open_image))
    _, address, _ = launch(page, chosen, prevent_thread_lock=True)
    try:
        yield SimpleNamespace(address=address, fake=fake, settings=chosen, folder=folder)
    finally:
        page.close()
        examples.FOLDER = before
