"""The whole page: its tabs, its theme, and its launch.

Heavy libraries are imported by a thread once the page is up.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from vlcompare.errors import RequestError, VLCompareError
from vlcompare.machine.zerogpu import on_zerogpu
from vlcompare.paths import data_folder
from vlcompare.render.markup import Safe, el, join
from vlcompare.runtime.faults import LOST, report, when_device_is_lost
from vlcompare.ui import about, api, examples
from vlcompare.ui.compare.forms import may_be_folder
from vlcompare.ui.compare.handlers import Handlers, engine_sessions, picture_cache
from vlcompare.ui.compare.layout.tab import build
from vlcompare.ui.compare.votes import Votes
from vlcompare.ui.compare.wiring.results import first_page
from vlcompare.ui.compare.wiring.tab import wire
from vlcompare.ui.inspect import handlers as inspect_handlers
from vlcompare.ui.inspect import layout as inspect_layout
from vlcompare.ui.inspect import wiring as inspect_wiring
from vlcompare.ui.inspect.library import Library
from vlcompare.ui.inspect.session import Inspection
from vlcompare.ui.server import startup, upload_folder
from vlcompare.ui.server.allowed_hosts import AllowedHosts
from vlcompare.ui.server.call_errors import use_sentences
from vlcompare.ui.server.callers import limit_concurrency
from vlcompare.ui.server.concurrency import Slots
from vlcompare.ui.server.file_values import use_paths
from vlcompare.ui.server.log import bound_output
from vlcompare.ui.server.mcp_tools import describe_tools
from vlcompare.ui.server.middleware import CheckedApp, Rules
from vlcompare.ui.server.options import ServerOptions
from vlcompare.ui.server.queue_share import share_queue
from vlcompare.ui.server.rate_limit import RateLimiter, free_space
from vlcompare.ui.server.uploads import largest_upload
from vlcompare.ui.settings import AppSettings
from vlcompare.ui.study import layout as study_layout
from vlcompare.ui.study import wiring as study_wiring
from vlcompare.ui.study.session import Shelf
from vlcompare.ui.theme import launch_look
from vlcompare.ui.zerogpu import adapt

LINKS = {
    "Paper": "https://arxiv.org/abs/2409.05395",
    "Paper's code": "https://github.com/gpantaz/vl_mamba",
    "Model cards": "https://huggingface.co/gpantaz",
}
SECONDS_TO_END = 3.0  # what is on its way to browsers when the process must end
PORTS_TRIED = 3  # by starting a server, where none is asked for
READERS = 4  # runs that are read, or exports that are written, at once


def build_page(
    settings: AppSettings, handlers: Handlers | None = None, *, runs: Sequence[Path] = (), study: Path | None = None
) -> gr.Blocks:
    """The page for these settings. handlers: given by tests, to answer with a fake.

    runs: opened in the Inspect tab; study: rows that the Study tab shows in place of the shipped ones. The page opens
    with the tab for which something is given.
    """
    handlers = handlers or real_handlers(settings)
    first = "inspect" if runs else "study" if study else "compare"
    upload_folder.apply_upload_folder()
    with gr.Blocks(title="vlcompare", analytics_enabled=False, fill_width=True, delete_cache=(600, 3600)) as page:
        gr.HTML(heading())
        with gr.Tabs(elem_classes="vl-tabs", selected=first) as tabs:
            with gr.Tab("Compare", id="compare"):
                parts = build(settings, *first_page(settings, handlers))
                entering = wire(parts, handlers, votes_of(settings), page)
            with gr.Tab("Inspect", id="inspect"):
                library = Library(settings.allow_path, runs, pictures=settings.pictures)
                inspect_wiring.wire(inspect_layout.build(library), settings, page, parts, tabs)
            with gr.Tab("Study", id="study") as study_tab:
                study_parts = study_layout.build(Shelf(study))
            study_wiring.wire(study_parts, study_tab, page, first=first == "study")
        about.build()
        api.serve(handlers)
    use_paths(page)
    waiting = settings.limits.queue
    limit_concurrency(page, Slots(settings.concurrency, waiting), Slots(READERS, waiting))
    use_sentences(page)
    page.queue(max_size=settings.limits.queue, default_concurrency_limit=8)
    share_queue(page._queue, settings.concurrency + max(1, settings.limits.queue * 3 // 4), entering)
    if runs:  # loaded before the page is served, so that it opens at once
        inspect_handlers.start(Inspection(library))
        gc.collect()
        gc.freeze()  # later collections skip the millions of values of these runs
    return page


def heading() -> Safe:
    """What the page is, in a line, with links."""
    links = [el("a", name, href=address, rel="noreferrer", target="_blank") for name, address in LINKS.items()]
    return el(
        "header",
        el("h1", "vlcompare"),
        el("p", "One picture, one question, two models: a Transformer beside a state-space model."),
        el("p", join(links, " · ")),
        class_="vl-title",
    )


def votes_of(settings: AppSettings) -> Votes:
    """The server's votes; with a dataset repository given, each one is also committed there."""
    if not settings.votes_dataset:
        return Votes(settings.data, settings.limits)
    repository = settings.votes_dataset

    def publish(row: dict[str, Any]) -> None:
        from vlcompare.runtime.loading.hub import commit_file

        commit_file(repository, f"votes/{row['run']}.json", json.dumps(row).encode(), "Add a vote")

    return Votes(settings.data, settings.limits, publish)


def real_handlers(settings: AppSettings) -> Handlers:
    """Handlers that run the package's own engine."""
    from vlcompare.comparison import compare
    from vlcompare.runtime.loading.model_pool import ModelPool

    pool = ModelPool(settings.budget_bytes, folders=lambda checkpoint: may_be_folder(checkpoint, settings))
    if on_zerogpu():
        return Handlers(settings, adapt(compare, pool, settings), pool, explains=False)
    return Handlers(settings, compare, pool, engine_sessions=engine_sessions, picture_cache=picture_cache)


def launch(page: gr.Blocks, settings: AppSettings, *, server_options: ServerOptions | None = None, **more: Any) -> Any:
    """Serve the page; there is no public link and no logging unless the operator asks for it.

    server_options: read from the environment by default; more: passed to `Blocks.launch`. Raises RequestError where
    the port cannot be used, or, where none is asked for, no free one is found.
    """
    rules = rules_of(page, settings, server_options or ServerOptions.from_environment())
    options: dict[str, Any] = {
        "server_name": settings.host,
        "share": False,
        "allowed_paths": [str(examples.FOLDER)],  # whatever the working directory is
        "max_file_size": largest_upload(settings.limits),
        "mcp_server": True,
        "show_error": True,
        "quiet": True,
        "ssr_mode": False,
        "footer_links": ["api"],
        "state_session_capacity": 500,
        "run_history": False,
        **launch_look(),
        **more,
    }
    port, tries = settings.port or startup.free_port(settings.host), 1 if settings.port else PORTS_TRIED
    while True:
        try:
            launched = page.launch(**options, server_port=port, _app=CheckedApp(rules))
            break
        except OSError as error:
            if "port" not in str(error):
                raise
            tries -= 1
            if not tries:
                raise RequestError(f"The port {port} is taken: choose another with --port.") from error
            port = startup.free_port(settings.host, port + 1)  # another process took it in between
    describe_tools(page, rules)
    return launched


def rules_of(page: gr.Blocks, settings: AppSettings, server_options: ServerOptions) -> Rules:
    """The rules that every request to this server is checked against."""
    archives = 2 * settings.limits.upload_bytes  # a client may hold two of the largest uploads, all together four
    quotas = server_options.quotas
    quotas = replace(quotas, size=max(quotas.size, archives), all_size=max(quotas.all_size, 2 * archives))
    return Rules(
        AllowedHosts(settings.host, server_options.allow_hosts, server_options.root_path, share=lambda: page.share_url),
        RateLimiter(quotas, lambda: free_space(upload_folder.upload_folder())),
        file_bytes=largest_upload(settings.limits),
        json_bytes=settings.limits.file_bytes * 4 // 3 + 2**20,  # a picture may be a data URI
        behind_proxy=bool(os.environ.get("SPACE_ID")),
    )


def serve(settings: AppSettings, *, runs: Sequence[Path] = (), study: Path | None = None, **more: Any) -> None:
    """Build and serve the page until interrupted; heavy libraries are imported once the page is up."""
    ready(settings)
    bound_output()
    when_device_is_lost(end_process)
    handlers = real_handlers(settings)
    page = build_page(settings, handlers, runs=runs, study=study)
    if on_zerogpu():
        warm_up(settings, handlers)  # models must be on the device before the first call is forked
    _, address, _ = launch(page, settings, prevent_thread_lock=True, **more)
    print(f"vlcompare: the page is at {address}", flush=True)
    threading.Thread(target=keep_tidy, args=(page,), daemon=True, name="vlcompare-tidy").start()
    if not on_zerogpu():
        threading.Thread(target=warm_up, args=(settings, handlers), daemon=True, name="vlcompare-warm-up").start()
    until_stopped(page)


def until_stopped(page: gr.Blocks) -> None:
    """Wait until the page is closed or the process is interrupted, as `Blocks.block_thread` does, in our own words."""
    try:
        while page.is_running:
            time.sleep(0.1)
    except KeyboardInterrupt:
        print("vlcompare: stopped.", flush=True)
        page.close(verbose=False)


def end_process() -> None:
    """End the server, soon and with a status that says so: what had an answer gets it, and a Space starts it again."""

    def end() -> None:
        time.sleep(SECONDS_TO_END)
        os._exit(LOST)  # nothing of CUDA is taken down: that might hang

    print("vlcompare: the GPU cannot be used by this process any more; the server ends.", file=sys.stderr, flush=True)
    threading.Thread(target=end, daemon=True, name="vlcompare-end").start()


def ready(settings: AppSettings) -> None:
    """Check and prepare what serving needs. Raises RequestError for the first problem."""
    startup.check_address(settings.host, settings.port)
    upload_folder.use_upload_folder()
    startup.raise_open_files()
    try:
        startup.check_data_folder(settings.data)
    except RequestError as error:
        if settings.data != data_folder({}):
            raise
        print(f"vlcompare: votes cannot be kept. {error}", flush=True)  # the default folder: serve without votes


def keep_tidy(page: gr.Blocks) -> None:
    """Delete old files of the upload folder, now and every ten minutes; the folder itself and the files that the page
    shows are kept."""
    folder = upload_folder.upload_folder()
    kept = {file for block in page.blocks.values() for file in getattr(block, "keep_in_cache", ())}
    while page.is_running:
        upload_folder.keep_upload_folder()
        upload_folder.sweep(folder, kept)
        time.sleep(600)


def warm_up(settings: AppSettings, handlers: Handlers) -> None:
    """Import slow libraries, compile the CPU kernels and preload models, in the background."""
    from vlcompare.runtime import engine  # noqa: F401  brings torch along
    from vlcompare.runtime.loading.compile_ahead import compiling
    from vlcompare.runtime.loading.cost import measured_rate
    from vlcompare.runtime.loading.devices import resolve_device, resolve_dtype
    from vlcompare.types import FAMILIES, ModelSpec

    with suppress(VLCompareError):  # a missing device is reported with the first answer
        device = resolve_device(settings.device)
        if device.type == "cpu":
            measured_rate(device)  # before anything else wants the processors
        for family in FAMILIES if device.type == "cpu" else ():
            compiling(family, resolve_dtype("auto", device))
    for name in settings.preload:
        try:
            with handlers.pool.acquire(ModelSpec(name, settings.quantization, settings.device)):
                print(f"vlcompare: {name} is loaded.", flush=True)
        except VLCompareError as error:
            print(f"vlcompare: {name} could not be preloaded: {error}", flush=True)
        except Exception as error:  # whatever a library raises: the page is served, and each answer says what is wrong
            report(error)
            print(f"vlcompare: {name} could not be preloaded ({type(error).__name__}).", flush=True)
