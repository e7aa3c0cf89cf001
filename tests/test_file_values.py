"""File values that name what was not uploaded, sent to every endpoint of the page by both ways, to MCP, and opened.

Nothing that they name may be opened by the server's process (every opening is watched), by gradio's own components
neither; and what comes back is the same sentence whatever was named.
"""

from __future__ import annotations

import asyncio
import html
import json
import os
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from ui_fakes import FakeCompare, png, uploaded

from vlcompare.errors import RequestError
from vlcompare.ui import examples
from vlcompare.ui.server import file_values
from vlcompare.ui.server.upload_folder import upload_folder
from vlcompare.ui.server.uploads import REFUSED, open_file, read_file

EVENT = {"index": [1, 1], "value": None, "pick": "none"}
JSON = {"Content-Type": "application/json"}
META = {"_type": "gradio.FileData"}
FORMS = {  # how a path can be sent
    "no meta": lambda path: {"path": path},
    "meta": lambda path: {"path": path, "meta": META},
    "another type": lambda path: {"path": path, "meta": {"_type": "gradio.Other"}},
    "meta is text": lambda path: {"path": path, "meta": "gradio.FileData"},
    "url": lambda path: {"path": path, "url": path, "orig_name": "a.png", "meta": META},
    "stream": lambda path: {"path": path, "is_stream": True, "meta": META},
    "list": lambda path: [{"path": path}],
    "lists": lambda path: [[{"path": path, "meta": META}]],
    "inside": lambda path: {"image": {"path": path, "meta": META}},
    "text": lambda path: path,
    "url alone": lambda path: {"path": None, "url": path, "meta": META},
}
_watched: list[str] = []  # paths that the process opened, in the order in which it did
_watching: list[str] = []  # what is looked for in them


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching and event == "open" and isinstance(arguments[0], (str, bytes)):
        path = os.fsdecode(arguments[0])
        if any(part in path for part in _watching):
            _watched.append(path)


sys.addaudithook(_audit)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """name -> a path that no client may have opened."""
    folder = tmp_path_factory.mktemp("kept-from-clients")
    uploads = tmp_path_factory.mktemp("uploads")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(uploads))
        patch.chdir(folder)
        (folder / "secret.png").write_bytes(png((1, 2, 3)))
        (folder / "secret.json").write_text('{"kind": "vlcompare-run"}')
        with zipfile.ZipFile(folder / "secret.zip", "w") as archive:
            archive.writestr("run.json", "{}")
        os.mkfifo(folder / "pipe")
        (folder / "unreadable.png").write_bytes(png())
        (folder / "unreadable.png").chmod(0)
        (uploads / "link.png").symlink_to(folder / "secret.png")
        (uploads / "linked").symlink_to(folder)
        os.mkfifo(uploads / "pipe")
        (uploads / "empty").mkdir()
        yield {
            "in the working directory": "secret.png",
            "picture": str(folder / "secret.png"),
            "run": str(folder / "secret.json"),
            "archive": str(folder / "secret.zip"),
            "absent": str(folder / "absent.png"),
            "unreadable": str(folder / "unreadable.png"),
            "pipe": str(folder / "pipe"),
            "device": "/dev/zero",
            "text": "/etc/passwd",
            "folder": str(uploads / "empty"),
            "uploads": str(uploads),
            "climbing": f"{uploads}/../{folder.name}/secret.png",
            "link": str(uploads / "link.png"),
            "linked folder": str(uploads / "linked" / "secret.png"),
            "pipe among uploads": str(uploads / "pipe"),
            "absent upload": f"{uploads}/{'0' * 64}/a.png",
            "NUL": f"{uploads}/a\0.png",
            "surrogate": f"{uploads}/\udc80.png",
            "long": f"{uploads}/{'a' * 5000}",
            "address": "http://127.0.0.1:9/x.png",
            "foreign address": "https://192.0.2.1/x.png",
            "own address": f"http://127.0.0.1/gradio_api/file={folder}/secret.png",
            "scheme": f"file://{folder}/secret.png",
            "data": "data:image/png;base64,AAAA",
        }


@pytest.mark.parametrize("kind", ["read", "open"])
def test_only_uploads_and_examples_are_opened(hostile: dict[str, str], kind: str) -> None:
    for name, path in hostile.items():
        with pytest.raises(RequestError) as refused:
            if kind == "read":
                read_file(path, 10**6)
            else:
                with open_file(path, 10**6):
                    pass
        assert str(refused.value) == REFUSED, name
    assert read_file(uploaded("secret.png"), 10**6) == Path("secret.png").read_bytes()
    shipped = examples.load_examples()[0].image
    assert read_file(str(shipped), 10**6) == shipped.read_bytes()
    with pytest.raises(RequestError, match="The picture is larger than 0 MiB"):
        read_file(uploaded("secret.png"), 10, "picture")


def test_what_is_opened_is_what_was_checked(hostile: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that becomes a link after the path was looked at leads nowhere."""
    given = Path(uploaded("secret.json"))
    (given.parent / "secret.png").write_bytes(b"an upload")
    path = str(given.parent / "secret.png")
    assert read_file(path, 100) == b"an upload"
    opened = os.open

    def swapped(name: Any, *arguments: Any, **how: Any) -> int:
        if name == given.parent.name:
            given.parent.rename(given.parent.with_name("moved"))
            given.parent.symlink_to(Path.cwd())
        return opened(name, *arguments, **how)

    monkeypatch.setattr(os, "open", swapped)
    with pytest.raises(RequestError, match="not uploaded here"):
        read_file(path, 10**6)


def test_the_folder_of_uploads_is_gradios(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRADIO_TEMP_DIR", raising=False)
    assert upload_folder().resolve() == Path(gr.utils.get_upload_folder())
    monkeypatch.setenv("GRADIO_TEMP_DIR", "/somewhere/else")
    assert str(upload_folder()) == gr.utils.get_upload_folder()


def test_values_of_every_form(hostile: dict[str, str]) -> None:
    image, plain, objects = gr.Image(), gr.Textbox(), gr.JSON()
    for form in FORMS.values():
        for path in hostile.values():
            for component in (
                plain,
                objects,
                gr.State(),
                gr.DownloadButton(),
                gr.Dropdown([], allow_custom_value=True),
            ):
                if form(path) != path:
                    with pytest.raises(gr.Error):
                        file_values.take_paths([component], [form(path)])
    for value in ({"path": 5}, {}, 7, "text", [["a"]], {"path": ""}):
        with pytest.raises(gr.Error, match="not uploaded here"):
            file_values.take_paths([image], [value])
    assert file_values.take_paths([image, plain], [None, ["a", 1]]) == ([None, ["a", 1]], {0: None})
    assert file_values.take_paths([image], [{"path": "/a"}]) == ([None], {0: "/a"})
    own = "http://here:7860/gradio_api/file=/tmp/gradio/a%20b.png"
    assert file_values.take_paths([image], [{"path": own}]) == ([None], {0: "/tmp/gradio/a b.png"})
    nested: Any = []
    for _ in range(5000):
        nested = [nested]
    for value, said in ((nested, "nested"), ([0] * 20_000, "too many"), ({"value": 1, "__type__": "update"}, "object")):
        with pytest.raises(gr.Error, match=said):
            file_values.take_paths([plain], [value])
    assert file_values.take_paths([objects], [{"a": [1]}]) == ([{"a": [1]}], {})


@pytest.fixture(scope="module")
def server(hostile: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    import httpx

    from vlcompare.runtime.image import open_image
    from vlcompare.ui.compare.handlers import Handlers
    from vlcompare.ui.page import build_page, launch
    from vlcompare.ui.settings import AppSettings

    settings = AppSettings(data=tmp_path_factory.mktemp("data"))
    fake = FakeCompare()
    page = build_page(settings, Handlers(settings, fake, None, open_image))
    _, address, _ = launch(page, settings, prevent_thread_lock=True)
    with httpx.Client(base_url=address, timeout=60) as http:
        config = http.get("config").json()
        kinds = {one["id"]: one["type"] for one in config["components"]}
        first = {one["id"]: one["props"].get("value") for one in config["components"]}
        yield SimpleNamespace(
            address=address, http=http, fake=fake, dependencies=config["dependencies"], kinds=kinds, first=first
        )
    page.close()


@pytest.fixture
def watched(hostile: dict[str, str]) -> Iterator[list[str]]:
    """Which hostile paths the process opens during the test."""
    _watched.clear()
    _watching.extend(["kept-from-clients", "/dev/zero", "/etc/passwd", "secret.png", "secret.json", "secret.zip"])
    yield _watched
    _watching.clear()


def values_of(server: SimpleNamespace, dependency: dict[str, Any], hostile: Any, only_files: bool) -> list[Any]:
    """The endpoint's inputs as a page that was just opened sends them, but a file in place of some."""
    values = []
    for one in dependency["inputs"]:
        kind = server.kinds[one]
        if kind in ("image", "uploadbutton") or not only_files:
            values.append(hostile)
        elif kind == "state":
            values.append(None)
        else:
            # a question that the handlers accept: they get as far as the file
            task = "region_description" if dependency["api_name"] == "mark" else "captioning"
            known = server.first[one]
            values.append(task if known == "grounding" else known or ("a cup" if kind == "textbox" else None))
    return values


def asked_directly(server: SimpleNamespace, dependency: dict[str, Any], values: list[Any]) -> str:
    body = {"fn_index": dependency["id"], "data": values, "session_hash": "direct", "event_data": EVENT}
    return str(server.http.post("gradio_api/run/predict", content=json.dumps(body), headers=JSON).text)


def asked_by_queue(server: SimpleNamespace, dependency: dict[str, Any], values: list[Any]) -> str:
    body = {"fn_index": dependency["id"], "data": values, "session_hash": "queued", "event_data": EVENT}
    reply = server.http.post("gradio_api/queue/join", content=json.dumps(body), headers=JSON)
    if reply.status_code != 200:
        return str(reply.text)
    with server.http.stream("GET", "gradio_api/queue/data", params={"session_hash": "queued"}) as lines:
        done = next(line for line in lines.iter_lines() if "process_completed" in line or "unexpected_error" in line)
    return str(done)


def told(reply: str) -> str:
    """The reply without what differs between any two."""
    return re.sub(r'"(?:\w*duration|avg_time|event_id)":\s*[^,}]+', "", html.unescape(reply))


@pytest.mark.parametrize("ask", [pytest.param(asked_directly, marks=pytest.mark.slow), asked_by_queue])
def test_no_endpoint_opens_a_file_that_was_not_uploaded(
    server: SimpleNamespace, hostile: dict[str, str], watched: list[str], ask: Any
) -> None:
    with_files = 0
    for dependency in server.dependencies:
        kinds = [server.kinds[one] for one in dependency["inputs"]]
        if not kinds:
            continue
        takes_files = bool({"image", "uploadbutton"} & set(kinds))
        with_files += takes_files
        replies: dict[str, list[str]] = {}
        all_of_them = dependency["api_name"] in ("compare", "load")
        few = ("picture", "pipe", "absent", "link", "text", "address") if takes_files else ("picture",)
        paths = hostile if all_of_them else {name: hostile[name] for name in few}
        for number, (name, path) in enumerate(paths.items()):
            forms = list(FORMS)[:7]
            form = forms[number % len(forms)] if takes_files else "meta"
            said = told(ask(server, dependency, values_of(server, dependency, FORMS[form](path), takes_files)))
            assert REFUSED in said, (dependency["api_name"], name, form, said[:400])
            replies.setdefault(said, []).append(name)
        assert len(replies) == 1, (dependency["api_name"], replies.values(), [said[:300] for said in replies])
    assert with_files == 7  # ask, three, the check of the form, three imports, /compare
    assert watched == [] and server.fake.asked == []


def test_a_component_that_a_handler_left_as_it_is_opens_nothing_either(
    server: SimpleNamespace, hostile: dict[str, str], watched: list[str]
) -> None:
    """gradio then builds the visitor's component anew, without whatever was changed about the first one."""
    by_name = {one["api_name"]: one for one in server.dependencies}
    restored = asked_by_queue(server, by_name["restore"], [None])
    assert '"success":true' in restored.replace(" ", "") and "no longer kept" in restored
    for form in ("meta", "url", "no meta"):
        values = values_of(server, by_name["ask"], FORMS[form](hostile["picture"]), True)
        assert REFUSED in told(asked_by_queue(server, by_name["ask"], values))
    assert watched == []


def test_mcp_opens_no_file_of_the_server(server: SimpleNamespace, hostile: dict[str, str], watched: list[str]) -> None:
    """gradio's MCP server is a client of its own page: what it took for a file of its own it would upload."""
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async def call(arguments: list[dict[str, Any]]) -> list[Any]:
        async with (
            streamablehttp_client(f"{server.address}gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            (tool,) = (await session.list_tools()).tools
            return [await session.call_tool(tool.name, {"task": "captioning", **one}) for one in arguments]

    sent: list[dict[str, Any]] = []
    for path in (hostile["picture"], hostile["pipe"]):
        sent += [{"image": FORMS[form](path)} for form in ("meta", "no meta", "list", "text", "url")]
        sent += [{"image": None, name: FORMS["meta"](path)} for name in ("text", "choices", "box", "left", "seed")]
        sent += [{"image": None, "choices": [FORMS["meta"](path)]}]
    sent += [{"image": hostile[name]} for name in ("address", "foreign address", "own address")]
    for arguments, done in zip(sent, asyncio.run(call(sent)), strict=True):
        assert done.isError, arguments
    assert watched == [] and server.fake.asked == []
