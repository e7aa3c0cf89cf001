"""How much a client may send, and what a request's body may be: counts, bytes, the disk, and headers that lie."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from starlette.formparsers import MultiPartException

from vlcompare.ui.server.queue_share import QueueShare
from vlcompare.ui.server.rate_limit import MAX_CLIENTS, Quotas, RateLimiter, client_of
from vlcompare.ui.server.refusal import Refused
from vlcompare.ui.server.request_body import Body, FormCounter
from vlcompare.ui.server.session_states import CLIENT, FairStates


class World:
    """A rate limiter with a clock and a disk that the test sets."""

    def __init__(self, **quotas: int) -> None:
        self.now, self.free = 0.0, 1
        self.limiter = RateLimiter(Quotas(**quotas), lambda: self.free, lambda: self.now)

    def add(self, client: str = "a", files: int = 0, size: int = 0) -> None:
        self.limiter.add(client, files, size, upload=True)


def test_files_and_bytes_of_a_client_are_bounded_and_come_back_after_an_hour() -> None:
    for kind, quotas in (("files", {"files": 3}), ("size", {"size": 3})):
        world = World(**quotas)
        for _ in range(3):
            world.add(**{kind: 1})
        with pytest.raises(Refused, match="within an hour") as refused:
            world.add(**{kind: 1})
        assert refused.value.status == 429
        world.add("b", **{kind: 1})  # another one is none the worse
        world.now = 3700
        world.add(**{kind: 1})


def test_all_clients_together_are_bounded() -> None:
    for kind, quotas in (("files", {"all_files": 4}), ("size", {"all_size": 4})):
        world = World(**quotas)
        for client in "abcd":
            world.add(client, **{kind: 1})
        with pytest.raises(Refused, match="The server has taken"):
            world.add("e", **{kind: 1})


def test_who_is_refused_uses_up_nothing_of_the_others() -> None:
    world = World(files=2, all_files=4)
    for turn in range(10):
        with contextlib.nullcontext() if turn < 2 else pytest.raises(Refused):
            world.add("greedy", files=1)
    for client in "ab":
        world.add(client, files=1)


def test_a_full_disk_takes_no_uploads_but_answers() -> None:
    world = World()
    world.free = 0
    with pytest.raises(Refused, match="disk") as refused:
        world.add(files=1, size=10)
    assert refused.value.status == 507
    world.limiter.add("a", 0, 10, upload=False)


def test_requests_at_once_are_bounded_by_client_and_in_all() -> None:
    world = World(at_once=2, all_at_once=3)
    for client in "aab":
        world.limiter.open(client)
    for client, status in (("a", 429), ("b", 503)):
        with pytest.raises(Refused) as refused:
            world.limiter.open(client)
        assert refused.value.status == status
    world.limiter.close("a")
    world.limiter.open("c")


def test_many_clients_are_not_remembered_for_ever() -> None:
    world = World(all_files=10**6)
    world.add("heavy", 5, 5)
    for number in range(MAX_CLIENTS + 10):
        world.add(f"client {number}", 1, 1)
    assert len(world.limiter._clients) <= MAX_CLIENTS and "heavy" in world.limiter._clients


@pytest.mark.parametrize(
    ("peer", "forwarded", "proxy", "client"),
    [
        ("203.0.113.5", [], False, "203.0.113.5"),
        ("203.0.113.5", ["8.8.8.8"], False, "203.0.113.5"),  # says anybody
        ("10.0.0.1", ["8.8.8.8"], True, "8.8.8.8"),
        ("10.0.0.1", ["1.1.1.1, 8.8.8.8, 10.2.3.4"], True, "8.8.8.8"),  # the first was there before the proxy
        ("10.0.0.1", ["1.1.1.1", "8.8.8.8"], True, "8.8.8.8"),
        ("10.0.0.1", ["nonsense"], True, "10.0.0.1"),
        ("10.0.0.1", ["8.8.8.8, nonsense"], True, "10.0.0.1"),
        ("10.0.0.1", [], True, "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", [], False, "2001:db8:1:2::/64"),
        ("testclient", [], False, "testclient"),
    ],
)
def test_what_a_client_is(peer: str, forwarded: list[str], proxy: bool, client: str) -> None:
    assert client_of(peer, forwarded, proxy) == client


def form(*parts: tuple[str, bytes], boundary: str = "edge") -> bytes:
    """A form of fields, and of files where the name has a "filename"."""
    lines = [
        f"--{boundary}\r\nContent-Disposition: form-data; {name}\r\n\r\n".encode() + data + b"\r\n"
        for name, data in parts
    ]
    return b"".join(lines) + f"--{boundary}--\r\n".encode()


@pytest.mark.parametrize("chunk", [1, 7, 10_000])
def test_a_form_counts_its_files_and_its_other_bytes(chunk: int) -> None:
    found = FormCounter([(b"content-type", b"multipart/form-data; boundary=edge")])
    parts = ('name="files"; filename="a.png"', b"x" * 500), ('name="note"', b"y" * 20), ('filename=b; name="f"', b"")
    data = form(*parts)
    assert sum(found.feed(data[at : at + chunk]) for at in range(0, len(data), chunk)) == 2
    assert (found.files, found.field_bytes) == (2, 20)


def test_a_damaged_form_counts_nothing_more() -> None:
    for kind in (b"multipart/form-data; boundary=edge", b"multipart/form-data", b"text/plain", b""):
        assert FormCounter([(b"content-type", kind)]).feed(b"\0\r\n--nonsense" * 50) == 0


def sent(path: str, chunks: list[bytes], most: int = 1000, end: bool = True, **quotas: int) -> tuple[Any, list[Any]]:
    """What becomes of a request whose body is `chunks`: (the body, what the client is sent by an app that reads it)."""
    messages: list[Any] = []
    waiting = [{"type": "http.request", "body": data, "more_body": True} for data in chunks]
    waiting += [{"type": "http.request", "body": b""}] if end else [{"type": "http.disconnect"}]
    headers = [(b"content-type", b"multipart/form-data; boundary=edge"), (b"content-length", b"1")]
    scope = {"type": "http", "path": path, "root_path": "", "headers": headers}

    async def receive() -> Any:
        return waiting.pop(0)

    async def send(message: Any) -> None:
        messages.append(message)

    async def play() -> Body:
        body = Body(scope, receive, send, "a", World(**quotas).limiter, most)
        status = 200
        try:
            while (await body.receive()).get("more_body"):
                pass
        except MultiPartException:
            status = 400
        await body.send({"type": "http.response.start", "status": status, "headers": []})
        await body.send({"type": "http.response.body", "body": b"the app's"})
        return body

    return asyncio.run(play()), messages


UPLOAD = "/gradio_api/upload"
ONE_FILE = form(('name="files"; filename="a.png"', b"x" * 100))


@pytest.mark.parametrize(
    ("path", "chunks", "quotas", "status"),
    [
        (UPLOAD, [ONE_FILE], {}, 200),
        (UPLOAD, [b"x" * 600] * 2, {}, 413),  # more than was declared, and more than is taken
        (UPLOAD, [ONE_FILE, b"x"], {"files": 0}, 429),
        (UPLOAD, [ONE_FILE], {"size": 50}, 429),
        (UPLOAD, [ONE_FILE], {"all_size": 50}, 429),
        ("/gradio_api/queue/join", [b"{}"], {}, 200),
        ("/gradio_api/queue/join", [b"x" * 1001], {}, 413),
        ("/gradio_api/mcp/", [b"x" * 60], {"size": 50}, 429),  # a picture may come in any request
    ],
)
def test_a_body_is_refused_where_a_bound_is_passed(
    path: str, chunks: list[bytes], quotas: dict[str, int], status: int
) -> None:
    body, messages = sent(path, chunks, **quotas)
    assert messages[0]["status"] == status
    assert messages[1]["body"] == b"the app's" if status == 200 else messages[1]["body"].endswith(b".")
    assert len(messages) == 2 and (body.refused is None) is (status == 200)


def test_json_of_too_many_values_is_refused() -> None:
    _, messages = sent("/gradio_api/run/predict", [b"[]," * 100_001], most=10**6)
    assert messages[0]["status"] == 413 and b"values" in messages[1]["body"]


def test_fields_that_are_no_files_are_bounded() -> None:
    _, messages = sent(UPLOAD, [form(('name="note"', b"y" * 70_000))], most=10**6)
    assert messages[0]["status"] == 413 and b"fields" in messages[1]["body"]


def test_an_upload_that_breaks_off_fails_as_a_broken_form_does() -> None:
    body, messages = sent(UPLOAD, [ONE_FILE[:50]], end=False)
    assert messages[0]["status"] == 400 and body.refused is None  # by which gradio deletes what it has begun


def test_a_client_with_many_sessions_evicts_its_own_alone() -> None:
    with gr.Blocks() as page:
        gr.State(0)
    page.state_session_capacity = 5
    states = FairStates()
    states.set_blocks(page)
    for client, sessions in (("visitor", ["v1", "v2"]), ("other", [f"o{index}" for index in range(20)])):
        CLIENT.set(client)
        kept = [states[session] for session in sessions]
    CLIENT.set("")
    assert list(states.session_data) == ["v1", "v2", "o17", "o18", "o19"] and states["o19"] is kept[-1]
    assert set(states.time_last_used) == set(states.session_data)


class FakeQueue:
    """What gradio's queue keeps of events, which end when the test says so."""

    def __init__(self) -> None:
        self.event_ids_to_events: dict[str, object] = {}
        self.pending_event_ids_session: dict[str, set[str]] = {}
        self.pending_messages_per_session: dict[str, list[str]] = {}
        self.numbers = itertools.count()

    async def push(self, body: Any, request: Any, username: str | None) -> tuple[bool, str, str]:
        event = f"event {next(self.numbers)}"
        self.event_ids_to_events[event] = object()
        self.pending_event_ids_session.setdefault(body.session_hash, set()).add(event)
        self.pending_messages_per_session.setdefault(body.session_hash, []).append(event)
        return True, event, "success"


def test_one_client_has_a_share_of_the_queue_and_of_what_is_kept_for_it() -> None:
    queue = FakeQueue()
    share = QueueShare(queue, 2, 4)

    def push(client: str, session: str) -> bool:
        CLIENT.set(client)
        return asyncio.run(share.push(SimpleNamespace(session_hash=session), None, None))[0]

    assert [push("a", "a1"), push("a", "a2"), push("a", "a3")] == [True, True, False]
    assert push("b", "b1")  # another one has its own share
    for index in range(4, 20):  # results that nobody reads are dropped, the oldest first
        queue.event_ids_to_events.clear()
        assert push("a", f"a{index}")
    CLIENT.set("")
    assert list(queue.pending_messages_per_session) == ["b1", "a16", "a17", "a18", "a19"]
    assert set(queue.pending_event_ids_session) == set(queue.pending_messages_per_session)
    queue.event_ids_to_events.clear()
    for _ in range(9):  # one session of many events, none of them read
        assert [push("a", "one") for _ in range(3)] == [True, True, False]
        queue.event_ids_to_events.clear()
    assert len(queue.pending_event_ids_session["one"]) <= 4
    CLIENT.set("")
