"""Shared fixtures: where the oracle is, and what to do when it or a GPU or a browser is absent."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from app_world import launched, pages_say, visits

ROOT = Path(__file__).resolve().parents[1]
# the files that take longest, in this order: they are given out first, so that no worker is left with one at the end
LONG = (
    "app_real", "app_browser", "page_access", "inspect_browser", "page_panels", "compare_belongs", "page_gestures",
    "page_evidence", "page_leads", "page_study", "pretended_cuda", "evaluate_real", "kernels_triton",
    "kernel_proofs", "load", "threads", "ui_guard", "train", "file_values", "fallback", "bench", "api", "study_lab",
    "memory", "install", "study", "gpu_session", "study_pictures",
)  # fmt: skip
REFERENCE = Path(os.environ.get("VLCOMPARE_REFERENCE", ROOT.parent / "shared" / "reference"))


def _missing(what: str) -> None:
    """Skip with a reason; under CI a missing browser or oracle is a failure, so that green means tested."""
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(f"{what} (a skip is a failure where CI=true)")
    pytest.skip(what)


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the program remembers between runs (keys, notes, votes) is kept out of the user's own data folder, and what
    its servers show out of a folder that the tests of another process share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLCOMPARE_DATA", str(tmp_path_factory.mktemp("data")))
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        yield


@pytest.fixture(scope="session", autouse=True)
def signals_are_heard() -> None:
    """What a shell starts in the background ignores Ctrl-C, and what `nohup` starts a closed terminal; tests send both
    to themselves."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(scope="module", autouse=True)
def quick_collections() -> None:
    """Leave what is there before a module's tests out of collections: loading a model and running out of memory each
    start one, and through all of torch and gradio it takes longer than the test."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of the oracle made with the authors' own code; set VLCOMPARE_REFERENCE to use another place."""
    if not (REFERENCE / "reference_manifest.json.gz").exists():
        _missing(f"the reference oracle is not at {REFERENCE}; set VLCOMPARE_REFERENCE to its folder")
    return REFERENCE


@pytest.fixture(scope="session")
def reference_checkpoints(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All reference variants, materialised bit-exactly once per session, one folder each."""
    sys.path.insert(0, str(reference))
    try:
        import fixture_encoder  # noqa: F401  registers the oracle's tiny EVA-02 with timm
        import make_reference_checkpoints as make
    finally:
        sys.path.remove(str(reference))
    out = tmp_path_factory.mktemp("reference")
    manifest = make.load_manifest()
    for name, variant in manifest["variants"].items():
        if not variant.get("heavy"):
            make.materialise(manifest, name, out / name)
    return out


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a Chromium for the browser tests."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        _missing("no Chromium found (Debian: apt-get install chromium)")
    return str(path)


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    """A headless browser for the tests of one module."""
    with launched(chromium) as browser:
        yield browser


@pytest.fixture
def visit(app: Any, browser: Any) -> Iterator[Any]:
    """Opens the page of the module's `app`; complains about script errors at the end."""
    with visits(browser, app.address) as open_page:
        yield open_page


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Iterator[None]:
    """A failure of a browser test tells what its pages say."""
    report = yield
    if report.when == "call" and report.failed and item.get_closest_marker("browser"):
        report.sections += [("the page says", said) for said in pages_say()]
    return report


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """`-m gpu` opens only the files that have such tests: others import what a plain CUDA image does not hold."""
    if config.getoption("markexpr") != "gpu" or not collection_path.name.startswith("test_"):
        return None
    return True if "mark.gpu" not in collection_path.read_text(encoding="utf-8") else None


def pytest_configure(config: pytest.Config) -> None:
    """xdist is to give out the files in our order; its own puts those with few tests, the long ones of a page, last."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {f"test_{name}": rank for rank, name in enumerate(LONG)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(LONG)))
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU; run `pytest -m gpu` on a machine with one"))


@pytest.fixture
def handlers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The compare tab's actions over a fake that answers; whatever the test writes counts as uploaded."""
    from ui_fakes import FakeCompare

    from vlcompare.runtime.image import open_image
    from vlcompare.ui.compare.handlers import Handlers
    from vlcompare.ui.settings import AppSettings

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    return Handlers(AppSettings(data=tmp_path), FakeCompare(), None, open_image)


@pytest.fixture
def picture(tmp_path: Path) -> str:
    """A picture's file."""
    from ui_fakes import png

    path = tmp_path / "picture.png"
    path.write_bytes(png())
    return str(path)
