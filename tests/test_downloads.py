"""Downloads of a server: they hold no slot, few go on at once, a checkpoint is fetched once, and Stop ends them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from ui_fakes import png, until

from tests.fake_hub import FIRST, FakeHub
from tests.tiny import write_checkpoint
from vlcompare.comparison import compare
from vlcompare.errors import RequestError
from vlcompare.runtime.loading.downloads import Downloads
from vlcompare.runtime.loading.model_pool import ModelPool
from vlcompare.types import ModelSpec, Request, Side

ONE, TWO = "somebody/one", "somebody/two"
REQUEST = Request("vqa", "the car", max_new_tokens=2, stop_at_end=False)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("source") / "tiny", "mamba")


@pytest.fixture
def fake(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A Hub with two repositories whose files stop arriving in the middle, until `held` is set."""
    server = FakeHub({path.name: path.read_bytes() for path in checkpoint.iterdir()})
    server.repositories = [ONE, TWO]
    server.cut, server.held = 20_000, threading.Event()
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VLCOMPARE_DATA", str(tmp_path / "data"))
    yield server
    server.held.set()
    server.stop()


def arrive(fake: FakeHub) -> None:
    """All that was held up arrives."""
    fake.cut = None
    assert fake.held is not None
    fake.held.set()


def fetched(fake: FakeHub) -> int:
    """How many downloads of weights have begun."""
    return fake.downloads().count("model.safetensors")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SimpleNamespace]:
    """The real page with its usual two slots."""
    from vlcompare.ui.page import build_page, launch, real_handlers
    from vlcompare.ui.settings import AppSettings

    settings = AppSettings(data=tmp_path, concurrency=2)
    page = build_page(settings, real_handlers(settings))
    _, address, _ = launch(page, settings, prevent_thread_lock=True)
    picture = tmp_path / "red.png"
    picture.write_bytes(png((200, 0, 0)))
    yield SimpleNamespace(page=page, address=address, picture=picture)
    page.close()


def test_two_visitors_downloads_leave_both_slots_to_others(server: SimpleNamespace, fake: FakeHub) -> None:
    from gradio_client import Client, handle_file

    def ask(left: str) -> Any:
        client = Client(server.address, verbose=False, ssl_verify=False)
        picture = handle_file(str(server.picture))
        more = {"task": "captioning", "max_new_tokens": 2, "api_name": "/compare"}
        return client.submit(picture, left=left, right="tiny-mamba-vl", **more)

    jobs = [ask(ONE), ask(TWO)]
    assert until(lambda: fetched(fake) == 2)
    others = [ask("tiny-pythia-vl") for _ in range(3)]  # more than there are slots
    for other in others:
        sides = other.result(timeout=120)["sides"]
        assert all(side["error"] is None and len(side["tokens"]) == 2 for side in sides.values())
    assert not any(job.done() for job in jobs), "the downloads are still under way"
    models = server.page._queue.event_queue_per_concurrency_id["models"]
    assert models.current_concurrency == 0, "gradio starts the next event in the place of one that downloads"
    arrive(fake)
    for job in jobs:
        sides = job.result(timeout=120)["sides"]
        assert sides["left"]["error"] is None and sides["left"]["revision"] == FIRST
    assert until(lambda: models.current_concurrency == 0)


class Visit:
    """A comparison in a thread of its own; what it says, and its answers by side."""

    def __init__(self, pool: ModelPool, *names: str, **how: Any) -> None:
        self.said: list[str] = []
        self.answers: dict[str, Any] = {}
        self.cancel = threading.Event()
        self.idle = 0
        sides = {f"side{number}": Side(name, device="cpu") for number, name in enumerate(names)}
        picture = Image.new("RGB", (90, 60), "red")
        events = compare(picture, REQUEST, sides, pool=pool, cancel=self.cancel, idle=self.count, **how)
        self.thread = threading.Thread(target=self._follow, args=(events,))
        self.thread.start()

    @contextmanager
    def count(self) -> Iterator[None]:
        self.idle += 1
        try:
            yield
        finally:
            self.idle -= 1

    def _follow(self, events: Iterator[Any]) -> None:
        for event in events:
            if event.kind == "answer":
                self.answers[event.side] = event.value
            elif event.kind == "status":
                self.said.append(event.value)

    def end(self) -> list[Any]:
        self.thread.join(120)
        assert self.idle == 0
        return list(self.answers.values())


@pytest.mark.parametrize("mode", ["measure", "race"])
def test_both_sides_are_fetched_before_either_is_loaded(fake: FakeHub, checkpoint: Path, mode: str) -> None:
    visit = Visit(ModelPool(), ONE, str(checkpoint), TWO, mode=mode)
    assert until(lambda: fetched(fake) == 1 and visit.idle == 1)
    arrive(fake)
    answers = visit.end()
    assert [answer.error for answer in answers] == [None] * 3
    first = next(index for index, said in enumerate(visit.said) if said.startswith("Loading"))
    assert not any(said.startswith("Downloading") for said in visit.said[first:])
    assert {said.split(": ")[1] for said in visit.said[:first] if "safetensors" in said} == {ONE, TWO}


def test_one_checkpoint_is_fetched_once_and_who_waits_goes_on_where_the_first_stopped(fake: FakeHub) -> None:
    pool = ModelPool()
    first = Visit(pool, ONE)
    assert until(lambda: any("model.safetensors" in said for said in first.said))
    second = Visit(pool, ONE, ONE)
    assert until(lambda: any("model.safetensors" in said for said in second.said)), "it is told how far the first is"
    assert fetched(fake) == 1
    first.cancel.set()
    arrive(fake)
    assert [answer.error for answer in second.end()] == [None, None]
    assert [answer.stop_reason for answer in first.end()] == ["cancelled"]
    assert all(fake.asked_ranges("model.safetensors")[1:]), "none of them begins at the beginning"


def test_stop_ends_a_download_on_a_silent_line(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hub neither sends nor closes: a read alone would wait for its time limit."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 600)
    visit = Visit(ModelPool(), ONE)
    assert until(lambda: any("Downloading 20 KB of" in said for said in visit.said))
    visit.cancel.set()
    visit.thread.join(30)
    assert not visit.thread.is_alive() and fake.held is not None and not fake.held.is_set()
    assert [answer.stop_reason for answer in visit.end()] == ["cancelled"]
    assert fetched(fake) == 1, "it was not tried again"


@pytest.mark.parametrize("hub", ["silent", "busy"])
def test_stop_ends_the_look_up_before_a_download(fake: FakeHub, monkeypatch: pytest.MonkeyPatch, hub: str) -> None:
    """Also while the config arrives, by which is known what a model needs, and between two requests to a busy Hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 600)
    if hub == "silent":
        fake.cut = 20
    else:
        fake.status = 429, ""
        monkeypatch.setattr("vlcompare.runtime.loading.hub.errors.retry_delay", lambda error, attempt: 60.0)
    visit = Visit(ModelPool(), ONE, TWO)
    parts = ("Looking up somebody/one",) if hub == "busy" else ("somebody/one: config.json", "20 B of")
    assert until(lambda: bool(fake.requests) and any(all(part in said for part in parts) for said in visit.said))
    visit.cancel.set()
    visit.thread.join(30)
    assert not visit.thread.is_alive() and fake.held is not None and not fake.held.is_set()
    assert [answer.stop_reason for answer in visit.end()] == ["cancelled"] * 2


def test_one_side_s_download_that_fails_leaves_the_other_side(fake: FakeHub, checkpoint: Path) -> None:
    arrive(fake)
    visit = Visit(ModelPool(), "somebody/else", str(checkpoint))
    (other,) = [answer for answer in visit.end() if answer.error is None]
    assert other.checkpoint == str(checkpoint) and len(visit.answers) == 2
    asked = [path for _, path, _ in fake.requests if "somebody/else" in path]
    assert len(asked) == 1, "a Hub that does not answer lets nobody wait twice"


def test_what_a_first_answer_would_fetch_is_fetched_before(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch, checkpoint: Path
) -> None:
    """The tokenizer that the published checkpoints share: no other call waits for the device meanwhile."""
    from vlcompare.runtime.loading import registry

    arrive(fake)
    shared = SimpleNamespace(tokenizer_repository=TWO, tokenizer_file="tokenizer.json", find=lambda name: None)
    monkeypatch.setattr(registry, "registry", lambda: shared)
    tokenizer = fake.files.pop("tokenizer.json")
    pool = ModelPool()
    fake.repositories = [ONE]
    refused = [answer.error for answer in Visit(pool, ONE).end()]
    assert len(refused) == 1 and TWO in refused[0] and not pool.resident()
    fake.repositories, fake.files["tokenizer.json"] = [ONE, TWO], tokenizer
    assert pool.missing(ModelSpec(ONE))
    pool.fetch(ModelSpec(ONE, device="cpu"))
    assert not pool.missing(ModelSpec(ONE)) and fake.downloads()[-1] == "tokenizer.json"


def test_what_other_downloads_have_still_to_write_is_not_free(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(fake.files["model.safetensors"])
    usage = SimpleNamespace(free=2 * size - 30_000)  # what the first one has written is still counted as free here
    monkeypatch.setattr("vlcompare.runtime.loading.hub.disk.shutil.disk_usage", lambda place: usage)
    pool = ModelPool()
    first = Visit(pool, ONE)
    assert until(lambda: any("model.safetensors" in said for said in first.said))
    (refused,) = Visit(pool, TWO).end()
    assert "disk is too full" in refused.error and "other downloads counted" in refused.error
    assert fetched(fake) == 1
    arrive(fake)
    assert first.end()[0].error is None
    assert Visit(pool, TWO).end()[0].error is None


def test_a_call_that_holds_a_model_keeps_its_slot_while_it_waits_for_another_load() -> None:
    begun, go = threading.Event(), threading.Event()

    def load(key: ModelSpec, say: Any) -> Any:
        if key.checkpoint == "slow":
            begun.set()
            assert go.wait(120)
        return SimpleNamespace(weights_bytes=1, notices_for=lambda request: ())

    pool = ModelPool(load=load, estimate=lambda key: 1, free=lambda key: 10**9)
    with pool.acquire(ModelSpec("held", device="cpu")):
        pass
    loading = threading.Thread(target=lambda: pool.acquire(ModelSpec("slow")).__enter__())
    loading.start()
    assert begun.wait(60)
    holds, waits = Visit(pool, "held", "other"), Visit(pool, "another")
    assert until(lambda: waits.idle == 1 and any("until another checkpoint" in said for said in holds.said))
    assert holds.idle == 0, "what it holds cannot be evicted: more calls at once would find no room"
    for visit in (holds, waits):
        visit.cancel.set()
        assert {answer.stop_reason for answer in visit.end()} == {"cancelled"}
    go.set()
    loading.join(60)


class Held:
    """Downloads in threads of their own that go on until `go` is set."""

    def __init__(self, **bounds: int) -> None:
        self.downloads, self.go = Downloads(**bounds), threading.Event()
        self.begun: list[str] = []
        self.said: dict[str, list[str]] = {}
        self.threads: list[threading.Thread] = []

    def start(self, name: str, waiting: Callable[[], None] = lambda: None) -> None:
        said = self.said.setdefault(name, [])

        def fetch(say: Callable[[str], None]) -> None:
            self.begun.append(name)
            say(f"fetching {name}")
            assert self.go.wait(120)

        def run() -> None:
            try:
                self.downloads.run(name.split()[0], fetch, said.append, waiting)
            except InterruptedError:
                said.append("gave up")

        before = len(self.downloads._requests)
        self.threads.append(threading.Thread(target=run))
        self.threads[-1].start()
        assert until(lambda: len(self.downloads._requests) == before + 1)

    def end(self) -> None:
        self.go.set()
        for thread in self.threads:
            thread.join(120)


def test_few_downloads_at_once_in_their_order() -> None:
    held, tired = Held(most=2, waiting=2), threading.Event()

    def give_up() -> None:
        if tired.is_set():
            raise InterruptedError

    for name in ("a", "b", "a again", "c", "d"):
        held.start(name, give_up if name == "c" else lambda: None)
    assert until(lambda: held.said["a again"] == ["fetching a"] and held.said["d"] != [])
    assert held.begun == ["a", "b"] and held.said["d"] == ["Waiting until another download is over (2 under way)"]
    with pytest.raises(RequestError, match="2 downloads wait"):
        held.downloads.run("e", print, print, lambda: None)
    for name in ("b again", "d again"):  # no further downloads
        held.start(name)
    tired.set()
    assert until(lambda: "gave up" in held.said["c"])
    held.end()
    assert sorted(held.begun) == ["a", "a again", "b", "b again", "d", "d again"] and not held.downloads._requests
