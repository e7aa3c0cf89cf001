"""The Hub, played by a server on this machine: what is fetched, resumed, reused offline, recorded and refused."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fake_hub import FIRST, REPOSITORY, SECOND, FakeHub, checksum, git_sum, sha256_sum
from tests.tiny import write_checkpoint
from vlcompare.cli import main
from vlcompare.errors import CheckpointError, DeviceMemoryError, HubError
from vlcompare.runtime.loading import hub, registry
from vlcompare.runtime.loading.hub import errors, transfer
from vlcompare.runtime.loading.load import load
from vlcompare.runtime.loading.locate import find_source


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
    monkeypatch.setattr(errors.time, "sleep", lambda seconds: None)  # no waiting before what failed is tried again
    yield server
    server.stop()


def parts(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").rglob("*.incomplete"))


def blobs_are_sound(tmp_path: Path) -> bool:
    """Whether every finished blob in the cache, which other programs use as well, is what its name says."""
    found = [path for path in (tmp_path / "cache").rglob("blobs/*") if path.suffix != ".incomplete"]
    return all(path.name in (sha256_sum(path.read_bytes()), git_sum(path.read_bytes())) for path in found)


def quiet(*event: object) -> None:
    pass


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


def test_a_download_that_broke_off_goes_on_where_it_stopped(fake: FakeHub, tmp_path: Path) -> None:
    """Whatever has arrived is kept, of any file: nothing is held back until some megabytes are together."""
    whole = len(fake.files["model.safetensors"])
    fake.cut = whole // 2

    def stop(sentence: str, done: int, total: int) -> None:
        if "safetensors" in sentence and done >= whole // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hub.fetch(REPOSITORY, progress=stop)
    fake.cut = None
    (part,) = parts(tmp_path)
    begun = part.stat().st_size
    assert begun == whole // 2 and part.read_bytes() == fake.files["model.safetensors"][:begun]
    assert hub.cached(REPOSITORY) is None and hub.cached_bytes(REPOSITORY) > begun
    fake.requests.clear()
    heard: list[int] = []
    snapshot = hub.fetch(REPOSITORY, progress=lambda sentence, done, total: heard.append(done))
    assert (snapshot.folder / "model.safetensors").read_bytes() == fake.files["model.safetensors"]
    assert fake.asked_ranges("model.safetensors") == [f"bytes={begun}-"]
    assert [value for value in heard if value][0] >= begun
    assert not parts(tmp_path)


def test_a_line_that_drops_is_taken_up_again_by_itself(fake: FakeHub) -> None:
    fake.cut = len(fake.files["model.safetensors"]) // 8
    snapshot = hub.fetch(REPOSITORY, progress=quiet)
    assert (snapshot.folder / "model.safetensors").read_bytes() == fake.files["model.safetensors"]
    assert fake.downloads().count("model.safetensors") > errors.TRIES


def test_a_line_that_brings_nothing_more_is_given_up(fake: FakeHub, tmp_path: Path) -> None:
    fake.cut = 0
    with pytest.raises(HubError, match="cannot be reached"):
        hub.fetch(REPOSITORY, progress=quiet)
    assert len(fake.downloads()) == errors.TRIES
    assert not parts(tmp_path) and blobs_are_sound(tmp_path)


@pytest.mark.parametrize(
    ("cut", "tries", "says"), [(0, 4, "cannot be reached"), (7, 10_000, "arrives too slowly .* is kept")]
)
def test_a_line_that_falls_silent_ends_in_a_sentence_and_goes_on_later(
    fake: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int, tries: int, says: str
) -> None:
    """Also one that brings a few bytes again and again, which no timeout of a read ends."""
    fetch_small = hub.fetch(REPOSITORY, files=["config.json", "tokenizer.json"], progress=quiet)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    monkeypatch.setattr(errors, "retry_delay", lambda error, attempt: 0.0)
    monkeypatch.setattr(errors, "TRIES", tries)  # a busy machine may be silent, too: there the other rule is to end it
    monkeypatch.setattr(transfer, "PATIENCE", 1.0)
    whole, fake.cut, fake.held = fake.files["model.safetensors"], cut, threading.Event()
    with pytest.raises(HubError, match=says):
        hub.fetch(REPOSITORY, progress=quiet)
    fake.held.set()
    kept = sum(part.stat().st_size for part in parts(tmp_path))
    assert bool(kept) == bool(cut) and kept <= cut * fake.downloads().count("model.safetensors")
    fake.cut = fake.held = None
    snapshot = hub.fetch(REPOSITORY, progress=quiet)
    assert snapshot.commit == fetch_small.commit and (snapshot.folder / "model.safetensors").read_bytes() == whole
    assert not parts(tmp_path) and blobs_are_sound(tmp_path)


def begin(fake: FakeHub, data: bytes, suffix: str = ".incomplete") -> Path:
    """Put what an earlier download left into the cache, as model.safetensors."""
    folder = hub.repository_folder(REPOSITORY) / "blobs"
    folder.mkdir(parents=True)
    part = folder / (sha256_sum(fake.files["model.safetensors"]) + suffix)
    part.write_bytes(data)
    return part


@pytest.mark.parametrize("wrong", [b"wrong from the beginning", b"w" * (1 << 20)], ids=["shorter", "longer, so 416"])
def test_a_beginning_that_is_not_the_file_s_is_fetched_anew(fake: FakeHub, tmp_path: Path, wrong: bytes) -> None:
    begin(fake, wrong)
    snapshot = hub.fetch(REPOSITORY, progress=quiet)
    assert fake.asked_ranges("model.safetensors") == [f"bytes={len(wrong)}-", ""]
    assert (snapshot.folder / "model.safetensors").read_bytes() == fake.files["model.safetensors"]
    assert not parts(tmp_path) and blobs_are_sound(tmp_path)


def test_a_server_that_sends_all_where_a_part_was_asked_for(fake: FakeHub) -> None:
    fake.ranges = False
    begin(fake, fake.files["model.safetensors"][:1000])
    snapshot = hub.fetch(REPOSITORY, progress=quiet)
    assert (snapshot.folder / "model.safetensors").read_bytes() == fake.files["model.safetensors"]
    assert fake.downloads().count("model.safetensors") == 1


def test_what_an_earlier_version_began_is_gone_on_with(fake: FakeHub) -> None:
    begin(fake, fake.files["model.safetensors"][:1000], ".part")
    hub.fetch(REPOSITORY, progress=quiet)
    assert fake.asked_ranges("model.safetensors") == ["bytes=1000-"]


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_bytes_that_changed_on_the_way_are_thrown_away(fake: FakeHub, tmp_path: Path, name: str) -> None:
    data = fake.files[name]
    fake.sent[name] = data[:-1] + bytes([data[-1] ^ 1])
    kind = "SHA-256" if name.endswith(".safetensors") else "git SHA-1"
    with pytest.raises(HubError, match=f"{name} arrived damaged .its {kind}"):
        hub.fetch(REPOSITORY, progress=quiet)
    assert not parts(tmp_path) and blobs_are_sound(tmp_path)
    fake.sent.clear()
    assert hub.fetch(REPOSITORY, progress=quiet).commit == FIRST


@pytest.mark.parametrize("what", ["no sizes", "no sizes and no checksums", "sizes too large", "no commits"])
def test_a_listing_that_leaves_things_out_brings_the_same_files(fake: FakeHub, tmp_path: Path, what: str) -> None:
    fake.sizes, fake.sums, fake.commits = "no sizes" not in what, "no checksums" not in what, what != "no commits"
    fake.grown = 7 if what == "sizes too large" else 0
    heard: list[str] = []
    snapshot = hub.fetch(REPOSITORY, progress=lambda sentence, done, total: heard.append(sentence))
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        assert (snapshot.folder / name).read_bytes() == fake.files[name]
        assert (snapshot.folder / name).resolve().name == checksum(name, fake.files[name])
    assert blobs_are_sound(tmp_path) and not parts(tmp_path)
    assert any("does not name the commit" in sentence for sentence in heard) == (what == "no commits")


def test_a_mirror_that_says_neither_checksum_nor_commit_is_refused(fake: FakeHub, tmp_path: Path) -> None:
    fake.sums = fake.commits = False
    with pytest.raises(HubError, match="config.json cannot be checked: .* mirror"):
        hub.fetch(REPOSITORY, progress=quiet)
    assert blobs_are_sound(tmp_path) and hub.cached(REPOSITORY) is None


def test_an_empty_file_in_the_cache_is_replaced(fake: FakeHub, tmp_path: Path) -> None:
    """Programs that were cut short leave them, and every other program then takes them for whole."""
    snapshot = hub.fetch(REPOSITORY, progress=quiet)
    for name in ("config.json", "model.safetensors"):
        (snapshot.folder / name).resolve().write_bytes(b"")
    assert hub.cached(REPOSITORY) is None
    hub.fetch(REPOSITORY, progress=quiet)
    assert (snapshot.folder / "config.json").read_bytes() == fake.files["config.json"]
    assert blobs_are_sound(tmp_path) and hub.cached(REPOSITORY) == snapshot


@pytest.mark.parametrize("what", ["listing", "file"])
def test_a_network_s_sign_in_page_is_told(fake: FakeHub, tmp_path: Path, what: str) -> None:
    fake.page, fake.page_for_files = what == "listing", what == "file"
    with pytest.raises(HubError, match="sign-in page") as caught:
        hub.fetch(REPOSITORY, progress=quiet)
    assert "\n" not in str(caught.value) and not parts(tmp_path) and blobs_are_sound(tmp_path)


@pytest.mark.parametrize("commit", ["../../x", "", None, 7])
def test_a_listing_without_a_commit_is_none(fake: FakeHub, tmp_path: Path, commit: Any) -> None:
    fake.commit = commit
    with pytest.raises(HubError, match="does not answer as the Hub does"):
        hub.fetch(REPOSITORY, progress=quiet)
    assert not (tmp_path / "cache").exists()


def test_files_of_another_commit_than_the_listing_s(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = fake.listing

    def move(repository: str) -> bytes:
        made, fake.commit = listing(repository), SECOND
        return made

    monkeypatch.setattr(fake, "listing", move)
    with pytest.raises(HubError, match="config.json came from commit bbbbbbbbbbbb instead of aaaaaaaaaaaa"):
        hub.fetch(REPOSITORY, progress=quiet)


def test_a_busy_server_is_asked_again(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(errors.time, "sleep", waited.append)
    fake.file_status = [(503, {}), (429, {"Retry-After": "7"}), (500, {})]
    hub.fetch(REPOSITORY, progress=quiet)
    assert sum(waited) == 1.0 + 7.0 + 4.0 and max(waited) <= errors.SILENT, "in parts: Stop ends the wait"


def test_one_download_at_a_time(fake: FakeHub) -> None:
    """Two programs that want the same files fetch them once; the second says that it waits."""
    heard: list[str] = []
    began, go_on = threading.Event(), threading.Event()

    def first(sentence: str, done: int, total: int) -> None:
        if "model.safetensors" in sentence and not began.is_set():
            began.set()
            assert go_on.wait(60)

    def second(sentence: str, done: int, total: int) -> None:
        heard.append(sentence)
        if "Waiting" in sentence:
            go_on.set()

    threads = [threading.Thread(target=lambda say=say: hub.fetch(REPOSITORY, progress=say)) for say in (first, second)]
    threads[0].start()
    assert began.wait(60)
    threads[1].start()
    for thread in threads:
        thread.join(60)
    assert "Waiting for another program that downloads model.safetensors" in heard
    assert fake.downloads().count("model.safetensors") == 1 and hub.cached(REPOSITORY) is not None


def test_threads_that_link_one_file_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    blob, target = tmp_path / "blob", tmp_path / "snapshot" / "model.safetensors"
    blob.write_bytes(b"x")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: transfer.link(blob, target), range(400)))
    assert target.is_symlink() and target.read_bytes() == b"x" and list(target.parent.iterdir()) == [target]


def test_other_programs_find_what_was_fetched(fake: FakeHub, tmp_path: Path) -> None:
    import huggingface_hub

    snapshot = hub.fetch(REPOSITORY, progress=quiet)
    fake.stop()
    found = huggingface_hub.hf_hub_download(
        REPOSITORY, "model.safetensors", cache_dir=tmp_path / "cache", local_files_only=True
    )
    assert Path(found) == snapshot.folder / "model.safetensors"


def test_a_system_without_links(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: str) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    snapshot = hub.fetch(REPOSITORY, progress=quiet)
    assert not (snapshot.folder / "config.json").is_symlink()
    assert hub.checksums(snapshot)["config.json"] == git_sum(fake.files["config.json"])
    names = ["config.json", "model.safetensors"]
    assert hub.check_files(snapshot, names, print) == names


def test_shards_without_an_index_come_all(fake: FakeHub) -> None:
    fake.files["model-00001-of-00002.safetensors"] = fake.files.pop("model.safetensors")
    fake.files["model-00002-of-00002.safetensors"] = b"x" * 100
    names = {path.name for path in hub.fetch(REPOSITORY, progress=lambda *event: None).folder.iterdir()}
    assert {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"} <= names


@pytest.mark.parametrize(
    ("status", "says"),
    [
        ((404, "RepoNotFound"), "The repository somebody/tiny was not found"),
        ((401, "RepoNotFound"), "The repository somebody/tiny was not found"),
        ((403, "GatedRepo"), "is gated: accept its conditions"),
        ((404, "RevisionNotFound"), "has no revision 'main'"),
        ((403, ""), "refuses access"),
        ((401, ""), "where a token is set, it is not valid"),
        ((404, ""), "is not on the Hub (404)"),
        ((400, ""), "answered somebody/tiny with an error"),
        ((429, ""), "too many requests from this machine (429): try again in some minutes"),
        ((503, ""), "with an error of its own (503): try again later"),
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
    with pytest.raises(HubError, match="cannot be reached in offline mode: unset HF_HUB_OFFLINE"):
        hub.fetch(REPOSITORY, progress=lambda *event: None)
    assert fake.requests == []


@pytest.mark.parametrize("address", ["nothing", "ftp://x"])
def test_an_endpoint_that_is_none(fake: FakeHub, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", address)
    with pytest.raises(HubError, match="not a web address|does not answer as the Hub"):
        hub.fetch(REPOSITORY, progress=quiet)


def test_a_cache_that_cannot_be_written(fake: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(HubError, match="cache cannot be used .*; set HF_HOME to another folder"):
        hub.fetch(REPOSITORY, progress=quiet)


def test_a_read_only_cache_that_holds_all_is_used(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a record and without a reference the Hub is asked for the commit; nothing needs to be written."""
    first = hub.fetch(REPOSITORY, progress=quiet)
    shutil.rmtree(hub.repository_folder(REPOSITORY) / "refs")
    hub.record.forget(REPOSITORY)

    def refuse(self: Path, *args: object, **how: object) -> None:
        raise OSError(30, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert hub.fetch(REPOSITORY, progress=quiet) == first


def test_a_full_disk_is_told_before_the_download(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("usage", (), {"free": 100})
    monkeypatch.setattr("vlcompare.runtime.loading.hub.shutil.disk_usage", lambda place: usage)
    with pytest.raises(HubError, match="disk is too full"):
        hub.fetch(REPOSITORY, progress=lambda *event: None)
    assert fake.downloads() == []


def test_a_disk_that_fills_up_keeps_what_came(fake: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, room = transfer.Transfer._write, len(fake.files["model.safetensors"]) // 2

    def full(self: transfer.Transfer, stream: Any, chunk: bytes) -> None:
        write(self, stream, chunk[: max(0, room - stream.tell())])
        if stream.tell() == room:
            raise OSError(28, "No space left on device")

    fake.files["tokenizer.json"] = fake.files["config.json"]  # shorter than the room
    with monkeypatch.context() as patch:
        patch.setattr(transfer.Transfer, "_write", full)
        with pytest.raises(HubError, match="disk is full"):
            hub.fetch(REPOSITORY, progress=quiet)
    assert [part.stat().st_size for part in parts(tmp_path)] == [room]
    hub.fetch(REPOSITORY, progress=quiet)
    assert fake.asked_ranges("model.safetensors")[-1] == f"bytes={room}-"


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
    monkeypatch.setitem(transfer.LARGEST, "", 10)
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

    assert "tiny-mamba-vl" in run("list")[1] and "to download, 6.2 GB" in run("list")[1]
    assert len(json.loads(run("list", "--json")[1])) == 14
    status, out, err = run("download", REPOSITORY)
    assert status == 0 and f"at commit {FIRST}" in out and f"main is commit {FIRST}" in err
    status, out, _ = run("verify", REPOSITORY)
    assert status == 0 and "SHA-256 of 1 of 1 weight files is the Hub's" in out and "All values are finite." in out
    assert "2 of 2 small files (config.json, tokenizer.json) are the Hub's." in out
    status, out, _ = run("info", REPOSITORY, "--json")
    assert json.loads(out)["revision"] == FIRST and json.loads(out)["memory_bytes"]["float32, none"] > 0
    assert "COCO" in run("info", "finetuned_mambavl_2.8b")[1]
    assert re.fullmatch(r"\d+(\.\d)? [KM]?B freed\.\n", run("remove", REPOSITORY)[1])
    assert run("verify", REPOSITORY)[0] == 2
    status, _, err = run("remove", "tiny-mamba-vl")
    assert status == 2 and "part of this project" in err
    status, _, err = run("download", "somebody/else")
    assert status == 2 and "was not found on the Hub" in err


@pytest.mark.parametrize("action", ["download", "remove"])
def test_what_is_no_repository_is_told(
    action: str, fake: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    for name, says in (
        ("tiny-mamb-vl", "did you mean tiny-mamba-vl?"),
        ("./own", "./own is a folder on this machine"),
        ("own", "own is a folder on this machine"),
        (str(tmp_path / "own"), "is a folder on this machine"),
    ):
        assert main(["checkpoints", action, name]) == 2
        said = capsys.readouterr().err
        assert says in said and said.count("\n") == 1
    assert (tmp_path / "own").is_dir() and not fake.requests


def test_a_revision_that_the_list_pins_is_the_one_that_is_fetched(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = registry.registry()
    pinned = replace(known.find("finetuned_mambavl_790m"), repository=REPOSITORY, revision=FIRST)
    monkeypatch.setattr(registry, "registry", lambda: replace(known, checkpoints=(pinned,)))
    asked: list[str | None] = []
    fetch = hub.fetch

    def noted(repository: str, *, revision: str | None = None, **more: Any) -> hub.Snapshot:
        asked.append(revision)
        return fetch(repository, revision=revision, **more)

    monkeypatch.setattr(hub, "fetch", noted)
    assert main(["checkpoints", "download", pinned.name]) == 0 and asked == [FIRST]
    assert hub.cached(REPOSITORY, revision=FIRST) is not None
    assert main(["checkpoints", "remove", pinned.name]) == 0
    assert hub.cached(REPOSITORY, revision=FIRST) is None
    capsys.readouterr()
    assert main(["checkpoints", "verify", pinned.name]) == 2
    assert f"`python -m vlcompare checkpoints download {pinned.name}` fetches it" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("recorded", [True, False], ids=["by the record", "by the cache's names"])
def test_verify_sees_a_changed_file(fake: FakeHub, name: str, recorded: bool) -> None:
    from vlcompare.runtime.loading.verify import verify

    snapshot = hub.fetch(REPOSITORY, progress=quiet)
    if not recorded:
        hub.record.forget(REPOSITORY)
    blob = (snapshot.folder / name).resolve()
    data = blob.read_bytes()
    last = bytes([data[-1] ^ 1]) if name.endswith(".safetensors") else b" " + data[-1:]
    blob.write_bytes(data[:-1] + last)
    with pytest.raises(CheckpointError, match=f"{name} differs from the Hub's"):
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


def test_an_upload_without_a_hub_says_that_nothing_was_sent(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unreachable(*args: object, **how: object) -> None:
        raise ConnectionError("nobody answers")

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", unreachable)
    with pytest.raises(HubError) as error:
        hub.push(tmp_path, "me/new")
    assert "nothing was sent to me/new" in str(error.value) and "cache" not in str(error.value)
    assert f"`hf upload me/new {tmp_path} .`" in str(error.value), "how to send it later"


def test_a_listing_tells_the_size_without_a_byte_of_the_weights(fake: FakeHub) -> None:
    found = hub.look_up(REPOSITORY)
    size = len(fake.files["model.safetensors"])
    assert found.stored == found.missing == size
    assert "model.safetensors" not in fake.downloads()
    hub.fetch(REPOSITORY, progress=quiet)
    assert hub.look_up(REPOSITORY).missing == 0


def test_what_does_not_fit_by_its_listing_is_refused_before_the_weights(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlcompare.runtime.memory.available_bytes", lambda device: 1000)
    with pytest.raises(DeviceMemoryError, match="needs about"):
        load(REPOSITORY, device="cpu")
    assert "model.safetensors" not in fake.downloads()


def test_a_download_is_pinned_when_it_begins(fake: FakeHub) -> None:
    """Its rest comes from the commit with which it began, although the branch has moved on."""

    def stop(sentence: str, done: int, total: int) -> None:
        if "safetensors" in sentence and done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hub.fetch(REPOSITORY, progress=stop)
    moved = fake.requests.copy()
    assert hub.fetch(REPOSITORY, progress=quiet).commit == FIRST
    later = [path for _, path, _ in fake.requests[len(moved) :] if "/revision/" in path]
    assert later and all(path.split("/revision/")[1].startswith(FIRST) for path in later)


def test_one_visitor_s_download_stops_nobody_and_both_sizes_come_first(fake: FakeHub, checkpoint: Path) -> None:
    from PIL import Image

    from vlcompare.comparison import compare
    from vlcompare.runtime.loading.model_pool import ModelPool
    from vlcompare.types import Request, Side

    picture, request = Image.new("RGB", (90, 60), "red"), Request("vqa", "the car", max_new_tokens=2, stop_at_end=False)
    sides = {"left": Side(REPOSITORY, device="cpu"), "right": Side(REPOSITORY, "int8", device="cpu")}
    refused = [event.value for event in compare(picture, request, sides, pool=ModelPool(budget_bytes=1000))]
    assert sum("Nothing was fetched of" in str(getattr(one, "error", "")) for one in refused) == 2
    assert "model.safetensors" not in fake.downloads()
    fake.cut, fake.held, begun, pool = 20_000, threading.Event(), threading.Event(), ModelPool()
    said: list[Any] = []

    def visit() -> None:
        for event in compare(picture, request, {"left": sides["left"]}, pool=pool):
            said.append(event.value)
            if "model.safetensors" in str(event.value):
                begun.set()

    visitor = threading.Thread(target=visit)
    visitor.start()
    assert begun.wait(60)
    *_, other = compare(picture, request, {"left": Side(str(checkpoint), device="cpu")}, pool=pool)
    assert other.value.error is None and len(other.value.tokens) == 2  # type: ignore[union-attr]
    assert visitor.is_alive() and not hasattr(said[-1], "error"), "the download is still under way"
    fake.cut = None
    fake.held.set()
    visitor.join(60)
    assert said[-1].error is None and said[-1].revision == FIRST
