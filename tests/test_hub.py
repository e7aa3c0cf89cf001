"""The Hub, played by a server on this machine: what is fetched, resumed, reused offline, recorded and refused."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import write_checkpoint
from vlcompare.cli import main
from vlcompare.errors import CheckpointError, HubError
from vlcompare.runtime import hub
from vlcompare.runtime.load import load
from vlcompare.runtime.source import find_source

REPOSITORY = "somebody/tiny"
FIRST, SECOND = "a" * 40, "b" * 40


class FakeHub:
    """The Hub's few answers that are asked for: a model's listing, a file's identity, a file's bytes (also from the
    middle). `cut` ends every body after so many bytes, as a dropped line would."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files, self.commit = files, FIRST
        self.status: tuple[int, str] | None = None  # refuse everything so: status, X-Error-Code
        self.cut: int | None = None
        self.requests: list[tuple[str, str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def do_HEAD(self) -> None:
                outer.answer(self, body=False)

            def do_GET(self) -> None:
                outer.answer(self, body=True)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def downloads(self) -> list[str]:
        return [path.rsplit("/", 1)[1] for method, path, _ in self.requests if method == "GET" and "/resolve/" in path]

    def answer(self, handler: Any, body: bool) -> None:
        self.requests.append((handler.command, handler.path, handler.headers.get("Range", "")))
        if self.status is not None:
            return self.send(handler, self.status[0], {"X-Error-Code": self.status[1]} if self.status[1] else {}, b"")
        listing = re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/([^?]+)(\?.*)?", handler.path)
        if listing:
            if listing[1] != REPOSITORY:
                return self.send(handler, 404, {"X-Error-Code": "RepoNotFound"}, b"{}")
            if listing[2] not in ("main", self.commit):
                return self.send(handler, 404, {"X-Error-Code": "RevisionNotFound"}, b"{}")
            return self.send(handler, 200, {"Content-Type": "application/json"}, self.listing())
        resolve = re.fullmatch(r"/[^/]+/[^/]+/resolve/([^/]+)/(.+)", handler.path)
        if resolve and resolve[2] in self.files:
            return self.file(handler, self.files[resolve[2]], body)
        return self.send(handler, 404, {"X-Error-Code": "EntryNotFound"}, b"")

    def listing(self) -> bytes:
        siblings = [
            {"rfilename": name, "size": len(data), "lfs": {"sha256": _sum(data), "size": len(data), "pointerSize": 1}}
            if name.endswith(".safetensors")
            else {"rfilename": name, "size": len(data)}
            for name, data in self.files.items()
        ]
        return json.dumps({"id": REPOSITORY, "sha": self.commit, "siblings": siblings}).encode()

    def file(self, handler: Any, data: bytes, body: bool) -> None:
        etag = _sum(data)
        head = {"ETag": f'"{etag}"', "X-Repo-Commit": self.commit, "Accept-Ranges": "bytes"}
        begin = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        if begin:
            first = int(begin[1])
            head["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
            data = data[first:]
        self.send(handler, 206 if begin else 200, head, data, body)

    def send(self, handler: Any, status: int, head: dict[str, str], data: bytes, body: bool = True) -> None:
        handler.send_response(status)
        for name, value in {**head, "Content-Length": str(len(data))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        if body and "ETag" in head and self.cut is not None and len(data) > self.cut:
            handler.wfile.write(data[: self.cut])
            handler.wfile.flush()
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_RDWR)
        elif body:
            handler.wfile.write(data)


def _sum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("source") / "tiny", "mamba")


@pytest.fixture
def fake(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    files = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    files |= {"README.md": b"a card", "optimizer.bin": b"never fetched"}
    server = FakeHub(files)
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VLCOMPARE_DATA", str(tmp_path / "data"))
    # no waiting between the library's own retries
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    yield server
    server.stop()


def parts(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").rglob("*.part"))


def test_only_the_needed_files_come_and_the_commit_is_said_and_recorded(fake: FakeHub, tmp_path: Path) -> None:
    heard: list[tuple[str, int, int]] = []
    snapshot = hub.fetch(REPOSITORY, progress=lambda *event: heard.append(event))
    assert sorted(path.name for path in snapshot.folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert all(path.read_bytes() == fake.files[path.name] for path in snapshot.folder.iterdir())
    assert snapshot.commit == FIRST
    assert any(f"main is commit {FIRST}" in sentence for sentence, _, _ in heard)
    record = json.loads((tmp_path / "data" / "revisions.json").read_text())
    assert record[REPOSITORY]["revisions"] == {"main": FIRST}
    last = heard[-1]
    assert "model.safetensors" in last[0] and last[1] == last[2] == len(fake.files["model.safetensors"])
    assert not parts(tmp_path)


def test_the_second_time_needs_no_network_and_keeps_the_commit(fake: FakeHub) -> None:
    first = hub.fetch(REPOSITORY, progress=lambda *event: None)
    fake.commit = SECOND
    fake.requests.clear()
    assert hub.fetch(REPOSITORY) == first
    fake.stop()
    assert hub.fetch(REPOSITORY) == first
    assert fake.requests == []


def test_update_looks_the_branch_up_again(fake: FakeHub) -> None:
    hub.fetch(REPOSITORY, progress=lambda *event: None)
    fake.commit = SECOND
    assert hub.fetch(REPOSITORY, update=True, progress=lambda *event: None).commit == SECOND
    assert hub.fetch(REPOSITORY).commit == SECOND
    assert hub.fetch(REPOSITORY, revision=FIRST).commit == FIRST


def test_a_recorded_commit_that_is_gone_is_named_and_can_be_looked_up_anew(fake: FakeHub, tmp_path: Path) -> None:
    hub.fetch(REPOSITORY, progress=lambda *event: None)
    shutil.rmtree(tmp_path / "cache")
    fake.commit = SECOND
    with pytest.raises(HubError, match=f"has no revision '{FIRST}'.*--update"):
        hub.fetch(REPOSITORY, progress=lambda *event: None)
    assert hub.fetch(REPOSITORY, update=True, progress=lambda *event: None).commit == SECOND


def test_a_cache_that_another_tool_filled_is_used(fake: FakeHub, tmp_path: Path) -> None:
    hub.fetch(REPOSITORY, progress=lambda *event: None)
    (tmp_path / "data" / "revisions.json").unlink()
    folder = hub.repository_folder(REPOSITORY)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(FIRST)
    fake.stop()
    assert hub.fetch(REPOSITORY).commit == FIRST


def test_a_download_that_broke_off_goes_on_where_it_stopped(
    fake: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = len(fake.files["model.safetensors"])
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)

    def stop(sentence: str, done: int, total: int) -> None:
        if "safetensors" in sentence and done >= whole // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hub.fetch(REPOSITORY, progress=stop)
    (part,) = parts(tmp_path)
    begun = part.stat().st_size
    assert whole // 2 <= begun < whole
    assert hub.cached(REPOSITORY) is None and hub.cached_bytes(REPOSITORY) > begun
    fake.requests.clear()
    heard: list[int] = []
    snapshot = hub.fetch(REPOSITORY, progress=lambda sentence, done, total: heard.append(done))
    assert (snapshot.folder / "model.safetensors").read_bytes() == fake.files["model.safetensors"]
    ranges = [asked for method, path, asked in fake.requests if method == "GET" and path.endswith("model.safetensors")]
    assert ranges == [f"bytes={begun}-"]
    assert [value for value in heard if value][0] >= begun
    assert not parts(tmp_path)


def test_a_line_that_drops_is_taken_up_again_by_itself(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    fake.cut = len(fake.files["model.safetensors"]) // 3
    snapshot = hub.fetch(REPOSITORY, progress=lambda *event: None)
    assert (snapshot.folder / "model.safetensors").read_bytes() == fake.files["model.safetensors"]
    assert fake.downloads().count("model.safetensors") > 2


def test_bytes_that_changed_on_the_way_are_thrown_away(fake: FakeHub, tmp_path: Path) -> None:
    folder = hub.repository_folder(REPOSITORY) / "blobs"
    folder.mkdir(parents=True)
    etag = _sum(fake.files["model.safetensors"])
    (folder / f"{etag}.part").write_bytes(b"wrong from the beginning")
    with pytest.raises(HubError, match="model.safetensors arrived damaged"):
        hub.fetch(REPOSITORY, progress=lambda *event: None)
    assert not parts(tmp_path)
    assert hub.fetch(REPOSITORY, progress=lambda *event: None).commit == FIRST


def test_shards_without_an_index_come_all(fake: FakeHub) -> None:
    fake.files["model-00001-of-00002.safetensors"] = fake.files.pop("model.safetensors")
    fake.files["model-00002-of-00002.safetensors"] = b"x" * 100
    names = {path.name for path in hub.fetch(REPOSITORY, progress=lambda *event: None).folder.iterdir()}
    assert {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"} <= names


@pytest.mark.parametrize(
    ("status", "says"),
    [
        ((404, "RepoNotFound"), "There is no repository somebody/tiny"),
        ((401, "RepoNotFound"), "There is no repository somebody/tiny"),
        ((403, "GatedRepo"), "is gated: accept its conditions"),
        ((404, "RevisionNotFound"), "has no revision 'main'"),
        ((403, ""), "refuses access"),
        ((400, ""), "answered somebody/tiny with an error"),
    ],
)
def test_what_the_hub_refuses(fake: FakeHub, status: tuple[int, str], says: str) -> None:
    fake.status = status
    with pytest.raises(HubError) as caught:
        hub.fetch(REPOSITORY, progress=lambda *event: None)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_offline_without_a_cache(fake: FakeHub) -> None:
    fake.stop()
    with pytest.raises(HubError, match="cannot be reached"):
        hub.fetch(REPOSITORY, progress=lambda *event: None)


def test_offline_mode_of_the_library(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="cannot be reached"):
        hub.fetch(REPOSITORY, progress=lambda *event: None)


def test_a_full_disk_is_told_before_the_download(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("usage", (), {"free": 100})
    monkeypatch.setattr("vlcompare.runtime.hub.shutil.disk_usage", lambda place: usage)
    with pytest.raises(HubError, match="disk is too full"):
        hub.fetch(REPOSITORY, progress=lambda *event: None)
    assert fake.downloads() == []


def test_a_disk_that_fills_up_keeps_what_came(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: object, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hub._Counted, "write", full)
    with pytest.raises(HubError, match="disk is full"):
        hub.fetch(REPOSITORY, progress=lambda *event: None)


@pytest.mark.parametrize(
    "name", ["", "noslash", "a/b/c", "../../etc", "a/..", "owner/na me", "https://x/y", "a" * 200 + "/b"]
)
def test_names_that_are_no_repository(name: str) -> None:
    with pytest.raises(HubError):
        hub.fetch(name)


def test_a_revision_never_names_a_file_of_this_machine(fake: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xd0\xff")
    with pytest.raises(HubError, match="has no revision"):
        hub.fetch(REPOSITORY, revision=str(tmp_path / "binary"), progress=lambda *event: None)


def test_small_files_are_refused_by_their_size_before_they_are_fetched(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "_LARGEST_SMALL", 10)
    with pytest.raises(HubError, match=r"config.json has .* too many"):
        hub.fetch(REPOSITORY, progress=lambda *event: None)
    assert fake.downloads() == []


def test_a_pickle_is_refused_before_it_is_fetched(fake: FakeHub) -> None:
    fake.files["pytorch_model.bin"] = fake.files.pop("model.safetensors")
    with pytest.raises(HubError, match="no safetensors: such files can run code"):
        hub.fetch(REPOSITORY, progress=lambda *event: None)
    assert "pytorch_model.bin" not in fake.downloads()


def test_a_config_that_cannot_be_used_stops_the_weights(fake: FakeHub) -> None:
    fake.files["config.json"] = b'{"architectures": ["LlamaForCausalLM"]}'
    with pytest.raises(CheckpointError, match="Llama"):
        find_source(REPOSITORY, progress=lambda *event: None)
    assert "model.safetensors" not in fake.downloads()


def test_load_from_the_hub_names_its_commit(fake: FakeHub, checkpoint: Path) -> None:
    model = load(REPOSITORY, progress=lambda *event: None)
    assert (model.checkpoint, model.revision) == (REPOSITORY, FIRST)
    assert model.weights_sha256() == load(checkpoint).weights_sha256()


def test_one_file_alone(fake: FakeHub) -> None:
    snapshot = hub.fetch(REPOSITORY, files=["tokenizer.json"], progress=lambda *event: None)
    assert fake.downloads() == ["tokenizer.json"] and (snapshot.folder / "tokenizer.json").is_file()
    with pytest.raises(HubError, match="has no file nothing.json"):
        hub.fetch(REPOSITORY, files=["nothing.json"], progress=lambda *event: None)


def test_remove_frees_the_cache_and_forgets(fake: FakeHub, tmp_path: Path) -> None:
    hub.fetch(REPOSITORY, progress=lambda *event: None)
    freed = hub.remove(REPOSITORY)
    assert freed >= sum(len(fake.files[name]) for name in ("config.json", "tokenizer.json", "model.safetensors"))
    assert hub.cached(REPOSITORY) is None and not hub.repository_folder(REPOSITORY).exists()
    assert REPOSITORY not in json.loads((tmp_path / "data" / "revisions.json").read_text())
    assert hub.remove(REPOSITORY) == 0


def test_the_command_line(fake: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*argv: str) -> tuple[int, str, str]:
        status = main(["checkpoints", *argv])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    assert "tiny-mamba-vl" in run("list")[1] and "to download, 6.16 GB" in run("list")[1]
    assert len(json.loads(run("list", "--json")[1])) == 14
    status, out, err = run("download", REPOSITORY)
    assert status == 0 and f"at commit {FIRST}" in out and f"main is commit {FIRST}" in err
    status, out, _ = run("verify", REPOSITORY)
    assert status == 0 and "SHA-256 of 1 of 1 weight files is the Hub's" in out and "All values are finite." in out
    status, out, _ = run("info", REPOSITORY, "--json")
    assert json.loads(out)["revision"] == FIRST and json.loads(out)["memory_bytes"]["float32, none"] > 0
    assert "COCO" in run("info", "finetuned_mambavl_2.8b")[1]
    assert run("remove", REPOSITORY)[1].endswith("GB freed.\n")
    assert run("verify", REPOSITORY)[0] == 2
    status, _, err = run("remove", "tiny-mamba-vl")
    assert status == 2 and "part of this project" in err
    status, _, err = run("download", "somebody/else")
    assert status == 2 and "There is no repository" in err


def test_verify_sees_a_changed_file(fake: FakeHub) -> None:
    from vlcompare.runtime.verify import verify

    snapshot = hub.fetch(REPOSITORY, progress=lambda *event: None)
    blob = (snapshot.folder / "model.safetensors").resolve()
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="differs from the Hub's"):
        verify(REPOSITORY)


def test_pushing_goes_through_the_library(fake: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[tuple[str, object]] = []
    monkeypatch.setattr(
        "huggingface_hub.HfApi.create_repo", lambda self, name, **how: calls.append(("create", name)) or "https://x/y"
    )
    monkeypatch.setattr(
        "huggingface_hub.HfApi.upload_folder", lambda self, **how: calls.append(("upload", how["folder_path"]))
    )
    assert hub.push(tmp_path, "me/new") == "https://x/y"
    assert calls == [("create", "me/new"), ("upload", str(tmp_path))]
    with pytest.raises(HubError):
        hub.push(tmp_path, "no-owner")
