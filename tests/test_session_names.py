"""Session hashes that can be guessed belong to one client each; those drawn at random stay as they are."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from vlcompare.ui.server.http_errors import ErrorMiddleware
from vlcompare.ui.server.session_states import CLIENT


def seen(client: str, path: str, query: str = "", body: Any = None, root: str = "") -> tuple[str, str, Any]:
    """Path, query and JSON body of a client's request, as the application gets them."""
    found: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        data = (await receive())["body"]
        found.append((scope["path"], scope["query_string"].decode(), json.loads(data) if data else None))

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"" if body is None else json.dumps(body).encode()}

    async def send(message: Any) -> None:
        raise AssertionError(message)

    scope = {"type": "http", "method": "GET" if body is None else "POST", "path": path, "root_path": root}
    scope |= {"query_string": query.encode(), "headers": [(b"content-type", b"application/json")]}
    token = CLIENT.set(client)
    try:
        asyncio.run(ErrorMiddleware(application)(scope, receive, send))
    finally:
        CLIENT.reset(token)
    return found[0]


@pytest.mark.parametrize("session", ["", "x", "direct", "a%2fb"])
def test_a_short_hash_names_another_session_for_each_client(session: str) -> None:
    def names(client: str) -> list[str]:
        call = seen(client, "/gradio_api/queue/join", body={"data": [], "session_hash": session})[2]["session_hash"]
        return [call, seen(client, f"/gradio_api/heartbeat/{session}")[0]]

    for one, again, other in zip(names("192.0.2.1"), names("192.0.2.1"), names("192.0.2.2"), strict=True):
        assert one == again != other and "192.0.2" not in one


def test_call_stream_and_heartbeat_mean_the_same_session() -> None:
    (name,) = {seen("c", "/gradio_api/run/predict", body={"session_hash": "x"})[2]["session_hash"]}
    assert seen("c", "/gradio_api/queue/data", "a=1&session_hash=x")[1] == f"a=1&session_hash={name}"
    assert seen("c", "/gradio_api/queue/data", "session%5Fhash=x")[1] == f"session_hash={name}"
    assert seen("c", "/gradio_api/heartbeat/x")[0] == f"/gradio_api/heartbeat/{name}"
    assert seen("c", "/below/gradio_api/heartbeat/x", root="/below")[0] == f"/below/gradio_api/heartbeat/{name}"
    padded = {"data": ["a" * 2**20], "session_hash": "x"}
    assert seen("c", "/gradio_api/queue/join", body=padded)[2] == {**padded, "session_hash": name}


def test_random_hashes_and_calls_without_one_pass_as_they_are() -> None:
    for body in ({"session_hash": "k3jf0q8zt1"}, {"session_hash": None, "data": []}, {"data": []}, [1], "x"):
        assert seen("c", "/gradio_api/queue/join", body=body)[2] == body
    assert seen("c", "/gradio_api/queue/data", "session_hash=k3jf0q8zt1")[1] == "session_hash=k3jf0q8zt1"
    assert seen("c", "/gradio_api/file=/a/b%20c", "a=%20")[:2] == ("/gradio_api/file=/a/b%20c", "a=%20")
