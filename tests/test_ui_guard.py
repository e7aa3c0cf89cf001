"""The served page with a fake comparison: what is refused, that direct calls keep the limit, and a proxy's prefix."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from ui_fakes import FakeCompare, png, until, write_examples

from vlcompare.runtime.image import open_image
from vlcompare.ui import examples
from vlcompare.ui.compare.handlers import Handlers
from vlcompare.ui.page import build_page, launch
from vlcompare.ui.server.options import ServerOptions
from vlcompare.ui.settings import AppSettings, Limits

FILE = {"meta": {"_type": "gradio.FileData"}}
REST = ["chat", "hello", "tiny-pythia-vl", "tiny-mamba-vl", None, None, "", "measure", "none", "none"]
REST += ["image_first", "image_first", None, None, 0, 0]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """One comparison at a time, three more direct calls may wait; `fake` counts what is at work."""
    folder = tmp_path_factory.mktemp("guard")
    before, examples.FOLDER = examples.FOLDER, write_examples(folder / "examples")
    settings = AppSettings(data=folder / "data", concurrency=1, limits=Limits(queue=3))
    fake = FakeCompare(words={"chat": ["word "] * 200})
    page = build_page(settings, Handlers(settings, fake, None, open_image))
    _, address, _ = launch(page, settings, prevent_thread_lock=True)
    http = httpx.Client(base_url=address, timeout=60)
    (path,) = http.post("gradio_api/upload", files={"files": ("a.png", png())}).raise_for_status().json()
    named = {one.get("api_name"): one["id"] for one in http.get("config").json()["dependencies"]}
    body = {"data": [{"path": path, **FILE}, *REST], "fn_index": named["compare"], "session_hash": "direct"}
    port = int(address.rstrip("/").rpartition(":")[2])
    yield SimpleNamespace(address=address, http=http, fake=fake, body=body, port=port)
    page.close()
    examples.FOLDER = before


@pytest.mark.parametrize(
    ("path", "method"),
    [
        ("", "GET"),
        ("config", "GET"),
        ("gradio_api/info", "GET"),
        ("gradio_api/queue/data?session_hash=a", "GET"),
        ("gradio_api/heartbeat/a", "GET"),
        ("gradio_api/mcp/schema", "GET"),
        ("gradio_api/mcp/", "POST"),
        ("gradio_api/upload", "POST"),
        ("gradio_api/upload", "OPTIONS"),
        ("gradio_api/run/predict", "POST"),
        ("gradio_api/call/compare", "POST"),
        ("no/such/route", "HEAD"),
    ],
)
def test_a_foreign_host_is_refused_on_every_route(server: SimpleNamespace, path: str, method: str) -> None:
    reply = server.http.request(method, path, headers={"host": "evil.example", "origin": "http://evil.example"})
    assert reply.status_code == 403 and "access-control-allow-origin" not in reply.headers
    assert method == "HEAD" or "--allow-host evil.example" in reply.text


def test_a_foreign_page_neither_posts_nor_reads(server: SimpleNamespace) -> None:
    evil = {"origin": "http://evil.example"}
    reply = server.http.post("gradio_api/upload", files={"files": ("a.png", png())}, headers=evil)
    assert reply.status_code == 403 and "other sites" in reply.text
    reply = server.http.get("config", headers=evil)
    assert reply.status_code == 200 and "access-control-allow-origin" not in reply.headers
    own = {"origin": server.address.rstrip("/")}
    reply = server.http.post("gradio_api/upload", files={"files": ("a.png", png())}, headers=own)
    assert reply.status_code == 200 and reply.headers["access-control-allow-origin"] == own["origin"]


def test_endpoints_have_names_of_their_own_and_one_is_public(server: SimpleNamespace) -> None:
    events = [one for one in server.http.get("config").json()["dependencies"] if one["backend_fn"]]
    names = [str(one["api_name"]) for one in events]
    assert not [name for name in names if name.startswith(("lambda", "listener", "partial", "None"))]
    assert {"upload", "choose", "start", "compare"} <= set(names) and len(set(names)) == len(names)
    assert [one["api_name"] for one in events if one["api_visibility"] == "public"] == ["compare"]


def post(server: SimpleNamespace) -> httpx.Response:
    return httpx.post(f"{server.address}gradio_api/run/predict", json=server.body, timeout=60)


def test_direct_calls_keep_the_limit_and_too_many_are_told(server: SimpleNamespace) -> None:
    fake, most = server.fake, 0
    with ThreadPoolExecutor(8) as pool:
        with fake.word_by_word():
            replies = [pool.submit(post, server) for _ in range(8)]
            assert until(lambda: sum(reply.done() for reply in replies) == 4)  # one works, three wait
            most = fake.running
            assert server.http.get("config").status_code == 200  # nobody else waits for them
        found = [reply.result() for reply in replies]
    assert most == 1 and sorted(reply.status_code for reply in found) == [200] * 4 + [400] * 4
    assert all("busy" in reply.text for reply in found if reply.status_code == 400)


def test_work_ends_when_a_direct_caller_leaves(server: SimpleNamespace) -> None:
    data = json.dumps(server.body).encode()
    head = f"POST /gradio_api/run/predict HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Length: {len(data)}\r\n"
    with server.fake.word_by_word():
        asked = len(server.fake.asked)
        callers = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3)]
        for caller in callers:
            caller.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + data)
        assert until(lambda: server.fake.running == 1)
        for caller in callers:
            caller.close()
        assert until(lambda: server.fake.running == 0)
        time.sleep(0.6)  # those that waited are not begun
        assert (server.fake.running, len(server.fake.asked)) == (0, asked + 1)


def test_work_ends_when_a_caller_of_the_queue_leaves(server: SimpleNamespace) -> None:
    with server.fake.word_by_word():
        body = {**server.body, "session_hash": "queued"}
        server.http.post("gradio_api/queue/join", json=body).raise_for_status()
        with httpx.stream("GET", f"{server.address}gradio_api/queue/data", params={"session_hash": "queued"}):
            assert until(lambda: server.fake.running == 1)
        assert until(lambda: server.fake.running == 0)


def test_work_ends_when_a_tools_caller_leaves(server: SimpleNamespace) -> None:
    """The call goes through a client inside the server, which stays."""
    image = "data:image/png;base64," + base64.b64encode(png()).decode()
    call = {"name": "compare", "arguments": {"image": image, "task": "chat", "text": "hello"}}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
    headers = {"accept": "application/json, text/event-stream"}
    with server.fake.word_by_word():
        with httpx.stream("POST", f"{server.address}gradio_api/mcp/", json=body, headers=headers, timeout=60) as reply:
            assert reply.status_code == 200 and until(lambda: server.fake.running == 1)
        assert until(lambda: server.fake.running == 0)


RARE = [pytest.param(how, marks=pytest.mark.slow) for how in ("kept", "no proxy")]


@pytest.fixture(params=["told", "given", *RARE])
def proxied(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The page's address behind a proxy that serves it below /vl: which its headers tell, or the operator. The proxy
    strips /vl, or ("kept") does not; or the operator's proxy is not there at all."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse, StreamingResponse
    from starlette.routing import Route

    settings, options = AppSettings(data=tmp_path), ServerOptions(root_path="" if request.param == "told" else "/vl")
    page = build_page(settings, Handlers(settings, FakeCompare(), None, open_image))
    _, address, _ = launch(page, settings, server_options=options, prevent_thread_lock=True)
    if request.param == "no proxy":
        yield address
        page.close()
        return
    client = httpx.AsyncClient(timeout=None)

    async def forward(asked: Any) -> Any:
        if not asked.url.path.startswith("/vl/"):
            return PlainTextResponse("outside of the prefix", 404)
        headers = {name: value for name, value in asked.headers.items() if name not in ("host", "connection")}
        if request.param == "told":
            headers |= {"x-forwarded-host": asked.headers["host"], "x-forwarded-prefix": "/vl"}
        url = address.rstrip("/") + (asked.url.path if request.param == "kept" else asked.url.path.removeprefix("/vl"))
        sent = client.build_request(
            asked.method, url, params=asked.query_params, headers=headers, content=asked.stream()
        )
        reply = await client.send(sent, stream=True)
        dropped = ("content-length", "content-encoding", "transfer-encoding", "connection")
        kept = {name: value for name, value in reply.headers.items() if name not in dropped}
        return StreamingResponse(reply.aiter_bytes(), reply.status_code, kept)

    app = Starlette(routes=[Route("/{path:path}", forward, methods=["GET", "POST", "HEAD"])])
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        proxy = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=proxy.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/vl/"
        proxy.should_exit = proxy.force_exit = True
        thread.join(60)
    page.close()


@pytest.mark.browser
def test_the_page_works_below_a_proxys_prefix(
    proxied: str, browser: Any, server: SimpleNamespace, tmp_path: Path
) -> None:
    from app_world import compare, text, upload, visits

    failed: list[str] = []
    with visits(browser, proxied) as open_page:
        visit: Callable[..., Any] = open_page
        page = visit()
        page.on("response", lambda reply: reply.status >= 400 and failed.append(f"{reply.status} {reply.url}"))
        address = proxied if proxied.endswith("/vl/") else f"{proxied}vl/"
        assert page.locator("#vl-link input, #vl-link textarea").input_value().startswith(address + "?")
        upload(page, png((4, 5, 6)))
        compare(page)
        assert text(page, "#vl-left-card .vl-answer")
        with page.expect_download() as waiting:
            page.locator("#vl-save").click()
        assert waiting.value.url.startswith(address)
        assert set(json.loads(Path(waiting.value.path()).read_bytes())["sides"]) == {"left", "right"}
    assert failed == []
