"""What the page costs: how soon it opens, how soon an example is answered, and what streaming through it adds.

The same comparison is timed in turns (A B A B): the engine alone, and the engine behind a real server whose stream is
read over HTTP as a browser reads it. The embedded pair answers, each token stretched to a given time: once by waiting,
as for a GPU that works elsewhere, and once by computing on every core, as for a large model on this CPU. A
browser's own work of painting is not counted.
"""

from __future__ import annotations

import json
import secrets
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from vlcompare.bench.server_process import PATIENCE_S, server
from vlcompare.errors import RequestError
from vlcompare.paths import EMBEDDED
from vlcompare.types import Request, Side
from vlcompare.ui.examples import Example, load_examples
from vlcompare.ui.settings import AppSettings

OPEN_S, EXAMPLE_S, OVERHEAD = 8.0, 1.5, 0.05  # the goals


@dataclass(frozen=True, slots=True)
class PageOptions:
    """What to measure. `opening`: also start the page in a separate process."""

    token_ms: float = 30.0
    tokens: int = 32
    repeats: int = 5
    opening: bool = True


@dataclass(frozen=True, slots=True)
class Streaming:
    """Medians over the rounds; `stream`: from each side's first token to its last; `whole`: from request to answer."""

    work: str  # "waits" or "computes"
    stream_alone_s: float
    stream_page_s: float
    whole_alone_s: float
    whole_page_s: float
    updates: int
    bytes: int

    @property
    def overhead(self) -> float:
        return self.stream_page_s / self.stream_alone_s - 1


@dataclass(frozen=True, slots=True)
class PageReport:
    """Everything measured in one run. None: not asked for."""

    options: PageOptions
    streaming: tuple[Streaming, ...]
    open_s: float | None = None
    first_example_s: float | None = None
    example_s: float | None = None

    def to_json(self) -> dict[str, Any]:
        rows = [{**asdict(row), "overhead": row.overhead} for row in self.streaming]
        return {"schema_version": 1, **asdict(self), "streaming": rows}


def run(options: PageOptions, progress: Callable[[str], None] = lambda sentence: None) -> PageReport:
    """Measure; `progress` receives what is being measured. Raises RequestError for options that cannot be measured."""
    if options.token_ms <= 0 or min(options.tokens, options.repeats) < 1 or options.tokens < 2:
        raise RequestError("A token must last some time, and there must be at least 2 tokens and 1 round.")
    example = next((one for one in load_examples() if one.task == "grounding"), None)
    if example is None:
        raise RequestError("There are no examples beside the package, which this is measured with.")
    opened: tuple[float | None, ...] = (None, None, None)
    if options.opening:
        progress("Starting the page in a separate process.")
        opened = _opening(example, options.repeats)
    rows = []
    for work in ("waits", "computes"):
        progress(f"Streaming: an engine that {work} {options.token_ms:g} ms a token.")
        rows.append(_streaming(options, example, work))
    return PageReport(options, tuple(rows), *opened)


def table(report: PageReport) -> str:
    """The figures beside their goals."""
    lines = []
    for name, value, goal in (
        ("page served after", report.open_s, OPEN_S),
        ("example, first time (imports, loading)", report.first_example_s, None),
        ("example on both sides, once loaded", report.example_s, EXAMPLE_S),
    ):
        if value is not None:
            lines.append(f"{name:<40} {value:6.2f} s" + (f"   (goal {goal:g} s)" if goal else ""))
    for row in report.streaming:
        lines += [
            f"streaming, {report.options.token_ms:g} ms a token, engine {row.work}:",
            f"  engine alone {row.stream_alone_s:.3f} s, through the page {row.stream_page_s:.3f} s: "
            f"{row.overhead:+.1%}   (goal at most {OVERHEAD:.0%})",
            f"  whole request {row.whole_alone_s:.3f} s, through the page {row.whole_page_s:.3f} s; "
            f"{row.updates} updates, {row.bytes / 1e3:.0f} KB",
        ]
    return "\n".join(lines)


# ---- streaming


class Pace(threading.Event):
    """A cancel that takes its time while `on`: the engine looks at it once a token, which then lasts `seconds`."""

    def __init__(self, cancel: threading.Event | None, seconds: float, work: Callable[[float], None]) -> None:
        super().__init__()
        self._cancel, self._seconds, self._work = cancel or threading.Event(), seconds, work
        self._last = time.perf_counter()
        self.on = False

    def set(self) -> None:
        self._cancel.set()

    def is_set(self) -> bool:
        rest = self._last + self._seconds - time.perf_counter()
        if self.on and rest > 0:
            self._work(rest)
        self._last = time.perf_counter()
        return self._cancel.is_set()


class PacedEngine:
    """The package's own comparison with a fixed number of tokens at a given pace; notes when each token came."""

    def __init__(self, options: PageOptions, work: Callable[[float], None]) -> None:
        self.options, self.work = options, work
        self.times: dict[str, list[float]] = {}

    def __call__(
        self,
        image: Any,
        request: Request,
        sides: Mapping[str, Any],
        *,
        cancel: threading.Event | None = None,
        **how: Any,
    ) -> Iterator[Any]:
        from vlcompare.comparison import compare

        self.times = {side: [] for side in sides}
        longer = replace(request, stop_at_end=False, max_new_tokens=self.options.tokens)
        pace = Pace(cancel, self.options.token_ms / 1e3, self.work)
        for event in compare(image, longer, sides, cancel=pace, **how):
            if event is not None:
                pace.on = event.kind == "step"  # the prompt looks at `cancel` between layers, which are no tokens
                if event.kind == "step":
                    self.times[event.side].append(time.perf_counter())
            yield event

    def streamed(self) -> float:
        """Seconds from first token to last, over all sides."""
        if any(len(times) != self.options.tokens for times in self.times.values()):
            raise RequestError("An answer had fewer tokens than asked for: choose fewer with --tokens.")
        return sum(times[-1] - times[0] for times in self.times.values())


def _streaming(options: PageOptions, example: Example, work: str) -> Streaming:
    from vlcompare.runtime.loading.model_pool import ModelPool
    from vlcompare.ui.compare.handlers import Handlers, engine_sessions
    from vlcompare.ui.page import build_page, launch
    from vlcompare.ui.server.upload_folder import use_upload_folder

    use_upload_folder()  # gradio's own belongs to whoever was the first on this machine
    engine, pool = PacedEngine(options, time.sleep if work == "waits" else _burn), ModelPool()
    settings = AppSettings(left=EMBEDDED[0], right=EMBEDDED[1], quantization="none")
    picture = example.image.read_bytes()
    request = Request(example.task, example.text)
    sides = {"left": Side(EMBEDDED[0]), "right": Side(EMBEDDED[1])}

    def alone() -> tuple[float, float]:
        start = time.perf_counter()
        for _ in engine(picture, request, sides, mode="measure", pool=pool):
            pass
        return engine.streamed(), time.perf_counter() - start

    page = build_page(settings, Handlers(settings, engine, pool, engine_sessions=engine_sessions))
    _, address, _ = launch(page, settings, prevent_thread_lock=True)
    try:
        client = Client(address)
        given = {"vl-picture": client.upload(example), "vl-task": example.task, "vl-text": example.text}
        rounds = []
        for turn in range(options.repeats + 1):
            engine_alone = alone()
            received = client.run("vl-run", given)
            if turn:  # the first one loads and warms
                rounds.append((*engine_alone, engine.streamed(), received.seconds, received.updates, received.bytes))
    finally:
        page.close()
    stream, whole, stream_page, whole_page, updates, count = (
        statistics.median(values) for values in zip(*rounds, strict=True)
    )
    return Streaming(work, stream, stream_page, whole, whole_page, int(updates), int(count))


def _burn(seconds: float) -> None:
    """Compute on every core for this many seconds."""
    import torch

    square = torch.ones(192, 192)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        square @ square


# ---- opening


def _opening(example: Example, repeats: int) -> tuple[float, float, float]:
    """(seconds until the page is served, first example, example once loaded)."""
    start = time.perf_counter()
    with server(["serve"], Client.at) as (client, _):
        opened = time.perf_counter() - start
        given = {"vl-picture": client.upload(example), "vl-task": example.task, "vl-text": example.text}
        first = client.run("vl-run", given).seconds
        again = statistics.median(client.run("vl-run", given).seconds for _ in range(repeats))
    return opened, first, again


# ---- a client without a browser


@dataclass(frozen=True, slots=True)
class Received:
    """What came over the wire for one click."""

    seconds: float
    updates: int
    bytes: int


class Client:
    """The page over HTTP: uploads a picture, presses a button, reads the stream to its end."""

    def __init__(self, address: str) -> None:
        import httpx

        self._http = httpx.Client(base_url=address, timeout=PATIENCE_S)
        self.config = self._http.get("config").raise_for_status().json()

    @classmethod
    def at(cls, address: str) -> Client | None:
        """A client, once the page itself is served there; None while it is not."""
        import httpx

        try:
            httpx.get(address, timeout=PATIENCE_S).raise_for_status()
            return cls(address)
        except httpx.TransportError:
            return None

    def upload(self, example: Example) -> dict[str, Any]:
        """The example's picture, as the page's own upload gives it."""
        files = {"files": (example.image.name, example.image.read_bytes(), "image/png")}
        (path,) = self._http.post("gradio_api/upload", files=files).raise_for_status().json()
        return {"path": path, "orig_name": example.image.name, "meta": {"_type": "gradio.FileData"}}

    def run(self, button: str, given: Mapping[str, Any]) -> Received:
        """Press the button with this id; `given`: values by element id, all others as the page has them."""
        parts = {part["id"]: part for part in self.config["components"]}
        pressed = next(id for id, part in parts.items() if part["props"].get("elem_id") == button)
        events = [one for one in self.config["dependencies"] if [pressed, "click"] in one["targets"]]
        event = next(one for one in events if one["types"]["generator"])  # the one that answers
        data = [_value(parts[id], given) for id in event["inputs"]]
        session, start = secrets.token_hex(6), time.perf_counter()
        body = {"data": data, "fn_index": event["id"], "session_hash": session, "trigger_id": pressed}
        body["event_data"] = None
        self._http.post("gradio_api/queue/join", json=body).raise_for_status()
        updates = count = 0
        with self._http.stream("GET", "gradio_api/queue/data", params={"session_hash": session}) as reply:
            for line in reply.iter_lines():
                count += len(line)
                if '"process_completed"' in line[:80]:
                    if not json.loads(line[5:])["success"]:
                        raise RequestError("The page answered with an error: see what the server says.")
                    break
                updates += '"process_generating"' in line[:80]
        return Received(time.perf_counter() - start, updates, count)


def _value(part: Mapping[str, Any], given: Mapping[str, Any]) -> Any:
    if part["type"] == "state":
        return None
    return given.get(part["props"].get("elem_id", ""), part["props"].get("value"))
