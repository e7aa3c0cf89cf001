"""What is checked before the page is served: one sentence each, and what is made is the user's alone."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
import time
from pathlib import Path

import pytest

from vlcompare.errors import RequestError
from vlcompare.ui.server import startup


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A system's temporary folder, with no upload folder named."""
    monkeypatch.setenv(startup.UPLOADS, "")
    monkeypatch.delenv(startup.UPLOADS)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    return tmp_path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_each_user_has_an_upload_folder_that_nobody_else_reads(temporary: Path) -> None:
    folder = startup.use_upload_folder()
    assert folder == temporary.resolve() / f"vlcompare-{os.getuid()}" and mode(folder) == 0o700
    assert os.environ[startup.UPLOADS] == str(folder)
    folder.chmod(0o777)
    del os.environ[startup.UPLOADS]
    startup.use_upload_folder()
    assert mode(folder) == 0o700


def test_another_users_upload_folder_is_not_used(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    startup.use_upload_folder()
    del os.environ[startup.UPLOADS]
    own = os.getuid()
    monkeypatch.setattr(startup, "_user", lambda: str(own))
    monkeypatch.setattr(os, "getuid", lambda: own + 1)
    with pytest.raises(RequestError, match=f"vlcompare-{own} belongs to another user: .*TMPDIR"):
        startup.use_upload_folder()


@pytest.mark.parametrize("kind", ["link", "file"])
def test_what_stands_in_the_upload_folders_place(temporary: Path, kind: str) -> None:
    place = startup.default_upload_folder()
    if kind == "link":
        place.symlink_to(temporary)
    else:
        place.write_text("")
    with pytest.raises(RequestError, match=r"The upload folder .* (is not a folder|cannot be written to)"):
        startup.use_upload_folder()


def test_a_folder_that_is_named_is_made_and_a_full_disk_is_said(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(startup.UPLOADS, str(temporary / "a" / "b"))
    assert startup.use_upload_folder() == temporary / "a" / "b"
    disk = os.statvfs(temporary)
    full = os.statvfs_result((disk.f_bsize, disk.f_frsize, disk.f_blocks, 0, 0, *tuple(disk)[5:]))
    monkeypatch.setattr(os, "statvfs", lambda folder: full)
    with pytest.raises(RequestError, match="No space left on device"):
        startup.use_upload_folder()


def test_no_temporary_folder_at_all(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    with pytest.raises(RequestError, match="no temporary folder"):
        startup.use_upload_folder()


def test_a_data_folder_is_made_private_or_refused(tmp_path: Path) -> None:
    startup.check_data_folder(tmp_path / "data")
    assert mode(tmp_path / "data") == 0o700 and not list((tmp_path / "data").iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="The data folder .*file.* cannot be written to"):
        startup.check_data_folder(tmp_path / "file" / "data")


def test_a_port_that_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(RequestError, match=f"The port {port} is taken: choose another with --port"):
            startup.check_address("127.0.0.1", port)
    startup.check_address("127.0.0.1", port)


def test_old_files_are_swept_and_what_the_page_shows_is_kept(tmp_path: Path) -> None:
    names = ("old/a.png", "old/kept.png", "new/b.png", "tmpx")
    for name in names:
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text("")
        if not name.startswith("new"):
            os.utime(file, (time.time() - 4000,) * 2)
    assert startup.sweep(tmp_path, {str(tmp_path / "old/kept.png")}) == 2
    assert sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.png")) == ["new/b.png", "old/kept.png"]
