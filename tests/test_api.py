"""The page's server as programs use it: /compare by gradio_client and by MCP, two clients at once, and refusals."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import struct
import threading
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from ui_fakes import FakeCompare, png, until

from vlcompare.types import Answer


class ColorCompare(FakeCompare):
    """Says the first pixel of the picture that it was given."""

    def _echo(self, side: Any, request: Any) -> list[str]:
        from vlcompare.runtime.image import open_image

        pixel = open_image(self.asked_here.image).getpixel((0, 0))
        return [f"{request.text} {pixel}"]

    asked_here = threading.local()

    def __call__(self, image: Any, *args: Any, **how: Any) -> Any:
        def events() -> Any:
            self.asked_here.image = image
            yield from super(ColorCompare, self).__call__(image, *args, **how)

        return events()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    from vlcompare.runtime.image import open_image
    from vlcompare.ui.compare.handlers import Handlers
    from vlcompare.ui.page import build_page, launch
    from vlcompare.ui.settings import AppSettings

    folder = tmp_path_factory.mktemp("api")
    settings = AppSettings(data=folder)
    fake = ColorCompare()
    page = build_page(settings, Handlers(settings, fake, None, open_image))
    _, address, _ = launch(page, settings, prevent_thread_lock=True)
    yield SimpleNamespace(address=address, fake=fake, folder=folder)
    page.close()


def client(server: SimpleNamespace) -> Any:
    from gradio_client import Client

    return Client(server.address, verbose=False, ssl_verify=False)  # certificates would be read anew at every call


def whole(image: Any, task: str = "chat", text: str = "x") -> list[Any]:
    """Every value of /compare in its order, as the bare protocol wants them."""
    pair = ["tiny-pythia-vl", "tiny-mamba-vl"]
    return [image, task, text, *pair, None, None, "", "measure", "none", "none", *["image_first"] * 2, None, None, 0, 0]


def picture(folder: Path, color: tuple[int, int, int]) -> Any:
    from gradio_client import handle_file

    path = folder / f"{'-'.join(map(str, color))}.png"
    path.write_bytes(png(color))
    return handle_file(str(path))


def test_one_call_one_json(server: SimpleNamespace) -> None:
    found = client(server).predict(picture(server.folder, (9, 8, 7)), task="grounding", text="it", api_name="/compare")
    assert set(found) == {"sides"} and set(found["sides"]) == {"left", "right"}
    left, right = (Answer.from_json(found["sides"][side]) for side in ("left", "right"))
    assert left.boxes and left.checkpoint == "tiny-pythia-vl" and right.checkpoint == "tiny-mamba-vl"
    assert len(left.timings.token_ms) == len(left.tokens) - 1 and left.prompt and -200 in left.prompt.ids


def test_choices_boxes_and_settings_arrive(server: SimpleNamespace) -> None:
    found = client(server).predict(
        picture(server.folder, (1, 2, 3)),
        task="pointing",
        text="which?",
        choices=[[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]],
        left="broken/one",
        right_prompt_order="instruction_first",
        seed=5,
        api_name="/compare",
    )
    assert "cut off" in found["sides"]["left"]["error"]
    assert found["sides"]["right"]["boxes"] == [[0, 0, 0.5, 0.5]]
    assert found["sides"]["right"]["prompt"]["order"] == "instruction_first" and found["sides"]["right"]["seed"] == 5


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"text": ""}, "needs a description"),
        ({"text": "x" * 5000}, "characters"),
        ({"text": "x", "left": "/etc"}, "operator"),
        ({"text": "x", "max_new_tokens": 10_000}, "between 1 and 512"),
        ({"text": "x", "task": "region_description", "box": [0, 0, 2, 2]}, "box"),
        ({"text": "x", "task": "juggling"}, "juggling"),
    ],
)
def test_limits_hold_in_the_api(server: SimpleNamespace, more: dict[str, Any], said: str) -> None:
    with pytest.raises(Exception, match=said):
        client(server).predict(picture(server.folder, (1, 1, 1)), api_name="/compare", **more)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "http://127.0.0.1:1/x.png",
        "http://localhost/x.png",
        "https://example.com/x.png",
        "file:///etc/passwd",
    ],
)
def test_no_file_and_no_address_of_the_server_is_opened(server: SimpleNamespace, path: str) -> None:
    before = len(server.fake.asked)
    body = json.dumps({"data": whole({"path": path, "url": path, "meta": {"_type": "gradio.FileData"}})}).encode()
    request = urllib.request.Request(
        f"{server.address}gradio_api/call/compare", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        event = json.load(reply)["event_id"]
    with urllib.request.urlopen(f"{server.address}gradio_api/call/compare/{event}", timeout=60) as reply:
        said = reply.read().decode()
    assert "event: error" in said and len(server.fake.asked) == before and "root:" not in said


def encoded(image: Image.Image, kind: str = "PNG", **how: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG of a few bytes that claims 30,000 x 30,000 pixels."""
    data = bytearray(png())
    data[16:24] = struct.pack(">II", 30_000, 30_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


GROUND = Image.new("RGB", (64, 48), (9, 8, 7))
TURNED = Image.Exif()
TURNED[274] = 6
ODD = {  # what is uploaded -> the pixel that the model's side sees, or what the refusal says
    "bomb.png": (bomb(), "30,000 x 30,000 pixels"),
    "truncated.jpg": (encoded(GROUND, "JPEG")[:-60], "damaged or cut off"),
    "empty.png": (b"", "empty"),
    "gif-inside.png": (encoded(GROUND, "GIF"), "is a GIF, not a JPEG, PNG or WebP"),
    "svg-inside.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is an SVG"),
    "text.png": (b"hello", "not a JPEG, PNG or WebP"),
    "cmyk.jpg": (encoded(Image.new("CMYK", (64, 48), (0, 0, 0, 255)), "JPEG"), "(0, 0, 0)"),
    "16-bit.png": (encoded(Image.new("I;16", (64, 48), 65535)), "(255, 255, 255)"),
    "palette.png": (encoded(GROUND.quantize()), "(9, 8, 7)"),
    "animated.webp": (
        encoded(GROUND, "WEBP", save_all=True, append_images=[Image.new("RGB", (64, 48))], lossless=True),
        "(9, 8, 7)",
    ),
    "turned.webp": (encoded(GROUND, "WEBP", exif=TURNED, lossless=True), "(9, 8, 7)"),
}


def test_odd_pictures_are_taken_rightly_or_refused_in_a_sentence(server: SimpleNamespace) -> None:
    """Through the server's own upload, where gradio must not look into the file before the project's own check does."""
    import httpx
    import psutil

    def said(name: str, data: bytes) -> str:
        with httpx.Client(base_url=server.address, timeout=60) as http:
            (path,) = http.post("gradio_api/upload", files={"files": (name, data)}).raise_for_status().json()
            file = {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}
            event = http.post("gradio_api/call/compare", json={"data": whole(file)}).json()["event_id"]
            return http.get(f"gradio_api/call/compare/{event}").text

    process = psutil.Process()
    for number in range(2):
        for name, (data, expected) in ODD.items():
            reply = said(name, data)
            assert expected in reply and ("event: error" in reply) == ("(" not in expected), (name, reply[:300])
            assert "/tmp" not in reply and "Traceback" not in reply
        memory = process.memory_info().rss
        if number == 0:
            before = memory
    assert memory - before < 32 * 2**20


def test_a_full_queue_is_said(tmp_path: Path) -> None:
    import httpx

    from vlcompare.runtime.image import open_image
    from vlcompare.ui.compare.handlers import Handlers
    from vlcompare.ui.page import build_page, launch
    from vlcompare.ui.settings import AppSettings, Limits

    settings = AppSettings(data=tmp_path, limits=Limits(queue=1), concurrency=1)
    fake = FakeCompare()
    page = build_page(settings, Handlers(settings, fake, None, open_image))
    _, address, _ = launch(page, settings, prevent_thread_lock=True)
    try:
        with fake.word_by_word(), httpx.Client(base_url=address, timeout=60) as http:
            files = {"files": ("a.png", png())}
            (path,) = http.post("gradio_api/upload", files=files).raise_for_status().json()
            body = {"data": whole({"path": path, "meta": {"_type": "gradio.FileData"}})}
            replies = [http.post("gradio_api/call/compare", json=body)]
            assert until(lambda: fake.running == 1)  # the first of them is at work, and stays so
            replies += [http.post("gradio_api/call/compare", json=body) for _ in range(3)]
    finally:
        page.close()
    codes = [reply.status_code for reply in replies]
    assert codes[0] == 200 and set(codes) == {200, 503}
    busy = next(reply for reply in replies if reply.status_code == 503)
    assert "calls waiting" in busy.text  # one client asks for everything here


@pytest.mark.parametrize("path", ["/etc/passwd", "app.py", "../app.py", "votes.sqlite"])
def test_no_file_of_the_server_is_served(server: SimpleNamespace, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{server.address}gradio_api/file={path}", timeout=60)
    assert refused.value.code in (403, 404)


def test_two_clients_twenty_rounds_nothing_mixed(server: SimpleNamespace) -> None:
    wrong: list[Any] = []

    def visitor(number: int) -> None:
        own = client(server)
        for round_ in range(20):
            color = (number, round_, 100)
            found = own.predict(
                picture(server.folder, color), task="chat", text=f"v{number}r{round_}", api_name="/compare"
            )
            for side in found["sides"].values():
                if side["text"] != f"v{number}r{round_} {color}":
                    wrong.append((number, round_, side["text"]))

    threads = [threading.Thread(target=visitor, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_openapi_names_the_parameters(server: SimpleNamespace) -> None:
    with urllib.request.urlopen(f"{server.address}gradio_api/info", timeout=60) as reply:
        endpoints = json.load(reply)["named_endpoints"]
    assert list(endpoints) == ["/compare"]  # nothing else of the page is offered to programs
    names = [parameter["parameter_name"] for parameter in endpoints["/compare"]["parameters"]]
    assert names[:5] == ["image", "task", "text", "left", "right"] and "left_quantization" in names
    with urllib.request.urlopen(f"{server.address}gradio_api/openapi.json", timeout=60) as reply:
        assert "/compare" in reply.read().decode()


def test_mcp_tool_takes_an_uploaded_picture(server: SimpleNamespace) -> None:
    import gradio.mcp
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    from vlcompare.ui.server.upload_folder import upload_folder

    async def call() -> tuple[list[Any], Any]:
        async with (
            streamablehttp_client(f"{server.address}gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            tools = (await session.list_tools()).tools
            address = "data:image/png;base64," + base64.b64encode(png((4, 5, 6))).decode()
            done = await session.call_tool(tools[0].name, {"image": address, "task": "chat", "text": "hello"})
            return tools, done

    tools, done = asyncio.run(call())
    assert [tool.name.endswith("compare") for tool in tools] == [True]
    assert "image" in tools[0].inputSchema["properties"] and "seed" in tools[0].inputSchema["properties"]
    assert not done.isError and "(4, 5, 6)" in done.content[0].text
    assert Path(gradio.mcp.DEFAULT_TEMP_DIR) == upload_folder()  # where gradio keeps it, old files are deleted


def test_a_visitor_who_left_is_let_go_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """History, caches and unpacked archives go with the tab: what was opened is closed without another visitor."""
    import httpx
    from ui_fakes import write_examples

    from vlcompare.ui import examples
    from vlcompare.ui.compare import session as runs
    from vlcompare.ui.compare.handlers import Handlers
    from vlcompare.ui.inspect import session as inspect_session
    from vlcompare.ui.page import build_page, launch
    from vlcompare.ui.settings import AppSettings

    monkeypatch.setenv("GRADIO_IS_E2E_TEST", "1")  # gradio's own: a second's grace in place of an hour's
    monkeypatch.setattr(examples, "FOLDER", write_examples(tmp_path / "examples"))
    closed: list[str] = []
    for kind in (runs.CompareSession, inspect_session.Inspection):
        monkeypatch.setattr(kind, "close", lambda self: closed.append(type(self).__name__))
    settings = AppSettings(data=tmp_path)
    page = build_page(settings, Handlers(settings, FakeCompare()))
    _, address, _ = launch(page, settings, prevent_thread_lock=True)
    try:
        visitor = httpx.Client(base_url=address + "gradio_api/", timeout=60)
        loads = [one for one in visitor.get("../config").json()["dependencies"] if one["targets"][0][1] == "load"]
        with visitor.stream("GET", "heartbeat/a-visitor"):
            for one in loads:
                body = {"data": [None] * len(one["inputs"]), "fn_index": one["id"], "session_hash": "a-visitor"}
                visitor.post("queue/join", json=body).raise_for_status()
            with visitor.stream("GET", "queue/data", params={"session_hash": "a-visitor"}) as said:
                done = (line for line in said.iter_lines() if "process_completed" in line[:80])
                assert all('"success":true' in next(done) for _ in loads)
            time.sleep(1.5)
            assert closed == []  # an open tab is not
        assert until(lambda: {"CompareSession", "Inspection"} <= set(closed))
    finally:
        page.close()
