"""What clients are told where a call fails: one sentence, no path, no traceback; and the bound of a server's log."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from ui_fakes import FakeCompare, png, write_examples

from vlcompare.errors import CheckpointError
from vlcompare.runtime import faults
from vlcompare.runtime.image import open_image
from vlcompare.ui import examples
from vlcompare.ui.compare.handlers import Handlers
from vlcompare.ui.page import build_page, launch, until_stopped
from vlcompare.ui.server import http_errors, log, uploads
from vlcompare.ui.server.redact import without_paths
from vlcompare.ui.settings import AppSettings

HOSTILE = {
    "surrogate": '"a\\ud800b"',
    "nul": '"a\\u0000b"',
    "nan": "NaN",
    "infinity": "1e999",
    "negative": "-1e308",
    "text": '"12x"',
    "list": '["\\udfff", [2]]',
    "object": '{"a\\ud800": "\\udfff"}',
    "true": "true",
    "long": '"' + "x" * 5000 + '"',
    "huge": "1" + "0" * 400,
    "path": '"/etc/passwd"',
    "deep": "[" * 200 + "]" * 200,
}
FOREIGN = re.compile(  # words of Python and its libraries, and folders of this machine
    r"Traceback|pydantic|codec|validation error|site-packages|Internal Server|has no attribute|NoneType|unhashable"
    r"|subscriptable|\w+Error\b|<class|\.py\b|/root|/home|/tmp|/usr"
)


class Broken(FakeCompare):
    """Fails in a way that nobody foresaw, or names a folder, where the question says so."""

    def __call__(self, image: Any, request: Any, sides: Any, **options: Any) -> Iterator[Any]:
        if request.text == "fail":
            raise KeyError("/root/secret/place of the visitor's words")
        if request.text == "refuse":
            raise CheckpointError("The file /root/models of mine/model.safetensors is cut off: download it again.")
        yield from super().__call__(image, request, sides, **options)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("errors")
    before, examples.FOLDER = examples.FOLDER, write_examples(folder / "examples")
    settings = AppSettings(data=folder / "data")
    page = build_page(settings, Handlers(settings, Broken(), None, open_image))
    _, address, _ = launch(page, settings, prevent_thread_lock=True)
    with httpx.Client(base_url=address, timeout=60) as client:
        yield client
    page.close()
    examples.FOLDER = before


@pytest.fixture(scope="module")
def calls(server: httpx.Client) -> dict[str, tuple[int, list[str], list[dict[str, Any]]]]:
    """Endpoint -> its number, the JSON of a usual value of each of its inputs, and these inputs."""
    config = server.get("config").json()
    uploaded = server.post("gradio_api/upload", files={"files": ("a.png", png(), "image/png")}).json()[0]
    picture = {"path": uploaded, "meta": {"_type": "gradio.FileData"}}
    components = {one["id"]: one for one in config["components"]}
    found = {}
    for call in config["dependencies"]:
        inputs = [components[number] for number in call["inputs"]]
        usual = {"image": picture, "state": None, "uploadbutton": None}
        values = [json.dumps(usual.get(one["type"], one["props"].get("value"))) for one in inputs]
        found[call["api_name"] or str(call["id"])] = (call["id"], values, inputs)
    return found


def post(server: httpx.Client, body: str, path: str = "run/predict") -> httpx.Response:
    headers = {"content-type": "application/json"}
    return server.post(f"gradio_api/{path}", content=body.encode(), headers=headers)


def call(server: httpx.Client, number: int, values: list[str], **more: str) -> httpx.Response:
    fields = {"fn_index": str(number), "data": f"[{','.join(values)}]", "session_hash": '"errors"', **more}
    return post(server, "{" + ",".join(f'"{name}": {value}' for name, value in fields.items()) + "}")


def wrong(response: httpx.Response, *what: Any) -> list[Any]:
    """What was asked and answered, where the answer is a server's failure or no sentence fit for a visitor; else []."""
    if response.status_code < 400 or response.status_code in (404, 405):  # the latter in the framework's fixed words
        return []
    try:
        found = response.json()
        said = str(found.get("error") or found.get("detail"))
    except ValueError:
        said = response.text
    good = response.status_code < 500 and said.rstrip(")").endswith(".") and not FOREIGN.search(said)
    return [] if good else [(*what, response.status_code, said[:200])]


def test_every_endpoint_answers_hostile_values_with_a_sentence(
    server: httpx.Client, calls: Any, capfd: pytest.CaptureFixture
) -> None:
    """Every kind of field of the page once with each hostile value, through the first endpoint that has it."""
    tried: set[tuple[str, str]] = set()
    found: list[Any] = []
    for name, (number, usual, inputs) in calls.items():
        for place, one in enumerate(inputs):
            kind = (one["type"], str(one["props"].get("label")) if one["type"] in ("number", "json") else "")
            if one["type"] == "state" or kind in tried:
                continue
            tried.add(kind)
            for value in HOSTILE.values():
                response = call(server, number, [*usual[:place], value, *usual[place + 1 :]])
                found += wrong(response, name, kind, value[:40])
    assert not found
    assert {"textbox", "number", "dropdown", "radio", "checkbox", "json", "image"} <= {kind for kind, _ in tried}
    out, err = capfd.readouterr()
    assert "x" * 100 not in out + err and "Traceback" not in err


def test_every_part_of_a_call_may_be_hostile(server: httpx.Client, calls: Any) -> None:
    number, usual, _ = calls["save"]
    found: list[Any] = []
    for name in ("session_hash", "event_data", "trigger_id", "fn_index", "data", "event_id", "simple_format"):
        for value in (*HOSTILE.values(), "null", "[]", "{}", "9999"):
            found += wrong(call(server, number, usual, **{name: value}), name, value[:40])
    for path in ("run/nothing", "run/compare", "call/compare", "call/v2/compare", "queue/join", "cancel", "reset"):
        for body in ("", "{", "[]", '{"data": []}', '{"data": ["\\ud800"], "fn_index": 1, "session_hash": "\\ud800"}'):
            found += wrong(post(server, body, path), path, body)
    assert not found


@pytest.mark.parametrize("text", ["a\ud800b", "a\u0000b"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "utf-8"])
def test_json_is_utf8_in_every_byte(server: httpx.Client, text: str, encoding: str) -> None:
    raw = f'{{"data": ["{text}"], "fn_index": 0}}'.encode(encoding, "surrogatepass")
    response = server.post("gradio_api/run/predict", content=raw, headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["error"]) == (400, "This request's body is not JSON.")


def test_addresses_and_file_names_may_be_hostile(server: httpx.Client) -> None:
    found: list[Any] = []
    for address in ("file=%00", "run/a%00b", "run/%ED%A0%80", "upload_progress?upload_id=%00", "file=%ED%A0%80"):
        found += wrong(server.get(f"gradio_api/{address}"), address)
    for name in (b"a\xed\xa0\x80.png", b"a\x00.png", b"a" * 300 + b".png", b"../../x.png", b"..", b"/etc/passwd"):
        head = b'--X\r\nContent-Disposition: form-data; name="files"; filename="' + name + b'"\r\n\r\n'
        kind = {"content-type": "multipart/form-data; boundary=X"}
        response = server.post("gradio_api/upload", content=head + png() + b"\r\n--X--\r\n", headers=kind)
        found += wrong(response, name)
    assert not found


@pytest.mark.parametrize("value", ["NaN", "1e999", "-1", '"much"', "[1]", "{}", "true", "99999999999"])
@pytest.mark.parametrize(("name", "low"), [("max_new_tokens", "1"), ("image_size", "14"), ("seed", "0")])
def test_a_number_that_is_refused_names_its_field_and_range(
    server: httpx.Client, calls: Any, name: str, low: str, value: str
) -> None:
    number, usual, inputs = calls["compare"]
    place = [one["props"].get("label") for one in inputs].index(name)
    response = call(server, number, [*usual[:1], '"captioning"', *usual[2:place], value, *usual[place + 1 :]])
    assert response.status_code == 400
    assert re.search(rf"{name}\b.* between {low} and ", response.json()["error"]), response.text


def test_numbers_may_come_as_text(server: httpx.Client, calls: Any) -> None:
    number, usual, inputs = calls["compare"]
    place = [one["props"].get("label") for one in inputs].index("max_new_tokens")
    response = call(server, number, [usual[0], '"captioning"', *usual[2:place], '"3"', *usual[place + 1 :]])
    assert len(response.json()["data"][0]["sides"]["left"]["tokens"]) == 3


def test_what_nobody_foresaw_is_told_to_the_operator_alone(
    server: httpx.Client, calls: Any, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "_told", set())
    number, usual, _ = calls["compare"]
    for text, expected in (("fail", "not foreseen"), ("refuse", "model.safetensors is cut off")):
        for _ in range(5):
            found = call(server, number, [usual[0], '"vqa"', f'"{text}"', *usual[3:]]).json()["data"][0]["sides"]
            assert expected in found["left"]["error"] and "/root" not in json.dumps(found)
    err = capfd.readouterr().err
    assert len(re.findall("unexpected KeyError at test_ui_errors.py", err)) == 1
    assert "secret" not in err and "Traceback" not in err


def test_the_stream_of_a_session_that_is_not_there_says_so_and_is_no_fault(
    server: httpx.Client, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "_told", set())
    assert "session_not_found" in server.get("/gradio_api/queue/data", params={"session_hash": "nobody-asked"}).text
    assert "unexpected" not in capfd.readouterr().err


def test_mcp_says_what_it_takes_and_what_it_refuses(server: httpx.Client) -> None:
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    uploaded = server.post("gradio_api/upload", files={"files": ("a.png", png(), "image/png")}).json()[0]
    address = "data:image/png;base64," + base64.b64encode(png()).decode()
    usual = {"task": "vqa", "text": "a\x00b"}
    good = [{"image": uploaded}, {"image": address}, {"image": address, "seed": None, "max_new_tokens": "3"}]
    bad: list[tuple[dict[str, Any], str]] = [
        ({}, "The argument image is missing"),
        ({"image": "/etc/passwd"}, "was not uploaded here"),
        ({"image": 5}, "The argument image takes a text: The picture"),
        ({"image": uploaded, "seed": [1]}, "The argument seed takes a number: .* between 0 and 2147483647"),
        ({"image": uploaded, "temperature": 7}, "temperature must be a number between 0.0 and 5.0"),
        ({"image": uploaded, "image_size": "x"}, "The argument image_size takes a number: .*14 and 1344"),
        ({"image": uploaded, "mode": "fast"}, "The argument mode is one of measure, race"),
        ({"image": uploaded, "nothing": 1}, "Unknown argument 'nothing'"),
        ({"image": uploaded, "left": "/root/x"}, "only opened below the path"),
    ]

    async def talk() -> tuple[Any, list[Any]]:
        url = f"{server.base_url}gradio_api/mcp/"
        async with streamablehttp_client(url) as (read, write, _), ClientSession(read, write) as session:
            await session.initialize()
            tool = (await session.list_tools()).tools[0]
            asked = [*good, *(arguments for arguments, _ in bad)]
            return tool, [await session.call_tool(tool.name, {**usual, **arguments}) for arguments in asked]

    tool, done = asyncio.run(talk())
    assert "data URI" in tool.inputSchema["properties"]["image"]["format"]
    assert "/gradio_api/upload" in tool.inputSchema["properties"]["image"]["description"]
    assert [one.isError for one in done] == [False] * len(good) + [True] * len(bad), [one.content for one in done]
    for (_, expected), one in zip(bad, done[len(good) :], strict=True):
        assert re.search(expected, one.content[0].text), one.content[0].text


@pytest.mark.parametrize("body", [{"a": "secret"}, ["secret"], "secret"])
def test_what_is_no_mcp_request_is_refused_in_a_sentence_and_not_logged(
    server: httpx.Client, body: Any, capfd: pytest.CaptureFixture
) -> None:
    accept = {"accept": "application/json, text/event-stream"}
    reply = server.post("gradio_api/mcp/", json=body, headers=accept)
    assert reply.status_code == 400 and reply.json()["error"] == {"code": -32600, "message": http_errors.NO_MCP}
    wrong = {"jsonrpc": "2.0", "id": 1, "method": "prompts/get", "params": {"name": "secret", "arguments": {"a": 1}}}
    reply = server.post("gradio_api/mcp/", json=wrong, headers=accept)
    assert "Invalid request parameters" in reply.text and not FOREIGN.search(reply.text) and "secret" not in reply.text
    server.post("gradio_api/mcp/", json={"jsonrpc": "2.0", "method": "secret"}, headers=accept)
    out, err = capfd.readouterr()
    assert "secret" not in out + err and "Traceback" not in err


def test_files_that_are_not_served_are_refused_alike(server: httpx.Client, tmp_path: Path) -> None:
    """Absent, present elsewhere, a folder, gone from the upload folder: nothing tells them apart."""
    uploaded = server.post("gradio_api/upload", files={"files": ("a.png", png(), "image/png")}).json()[0]
    assert server.get(f"gradio_api/file={uploaded}").status_code == 200
    (tmp_path / "there.txt").write_text("x")
    gone = f"{Path(uploaded).parent}/gone.png"
    replies = [
        server.get(f"gradio_api/file{mark}{path}")
        for path in ("/etc/passwd", "/none", tmp_path / "there.txt", tmp_path, gone, Path(uploaded).parent)
        for mark in "=/"
    ]
    assert {(reply.status_code, reply.json()["detail"]) for reply in replies} == {(403, uploads.REFUSED)}


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("/root/.cache/x/model.safetensors is cut off.", "model.safetensors is cut off."),
        (f"{Path.home()}/my models/a.json is missing.", "my models/a.json is missing."),
        ("C:\\Users\\me\\model.safetensors is cut off.", "model.safetensors is cut off."),
        (
            "Give a Hub id (owner/name), or 1/2 of it and/or less.",
            "Give a Hub id (owner/name), or 1/2 of it and/or less.",
        ),
        ("See https://example.org/a/b and /?view=api.", "See https://example.org/a/b and /?view=api."),
        ("Send files to /gradio_api/upload.", "Send files to /gradio_api/upload."),
        ("Reading /srv/tmp/p/true/mamba (9 MB)", "Reading mamba (9 MB)"),  # holds a known folder's name
    ],
)
def test_no_path_of_the_server_is_told(sentence: str, expected: str) -> None:
    assert without_paths(sentence) == expected


def test_the_log_has_a_bound() -> None:
    out, now = io.StringIO(), [0.0]
    stream = log.Bounded(out, most=1000, clock=lambda: now[0])
    print("the page is at http://127.0.0.1:7860", file=stream)
    for number in range(10_000):
        print(f"Error {number} of '{number}x': it failed again", file=stream)
    assert out.getvalue().count("failed again") == 1, "lines that differ in values alone are repetitions"
    for number in range(10_000):
        print("another " + "abcdefghij"[number % 10] * (number % 50) + " line", file=stream)
    assert len(out.getvalue()) < 1200
    now[0] = log.HOUR
    print("later", file=stream)
    assert "lines were left out" in out.getvalue() and out.getvalue().endswith("later\n")


def test_a_page_that_is_interrupted_is_closed_with_our_own_words_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    closed: list[bool] = []
    monkeypatch.setattr("vlcompare.ui.page.time", SimpleNamespace(sleep=interrupted))
    until_stopped(SimpleNamespace(is_running=True, close=lambda verbose: closed.append(verbose)))  # type: ignore[arg-type]
    assert closed == [False] and capsys.readouterr().out == "vlcompare: stopped.\n"
