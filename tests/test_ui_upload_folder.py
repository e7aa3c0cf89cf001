"""Each server has an upload folder of its own, the user's alone, and what ended servers leave is removed."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from vlcompare.errors import RequestError
from vlcompare.ui.server import upload_folder


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A system's temporary folder, with no upload folder named."""
    monkeypatch.setenv(upload_folder.UPLOADS, "")
    monkeypatch.delenv(upload_folder.UPLOADS)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    return tmp_path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def place_of(root: Path) -> Path:
    """The folder of this user's servers."""
    return root.resolve() / f"vlcompare-{os.getuid()}"


def another_process(monkeypatch: pytest.MonkeyPatch, root: Path) -> Path:
    """The upload folder of what stands for another process: it knows nothing of this one's."""
    monkeypatch.setattr(upload_folder, "_locks", {})
    monkeypatch.setenv(upload_folder.UPLOADS, str(root))
    return upload_folder.use_upload_folder()


def test_each_user_has_an_upload_folder_that_nobody_else_reads(temporary: Path) -> None:
    folder = upload_folder.use_upload_folder()
    place = place_of(temporary)
    assert folder.parent == place and mode(place) == mode(folder) == 0o700
    assert os.environ[upload_folder.UPLOADS] == str(folder)
    assert upload_folder.use_upload_folder() == folder  # a second page of this process
    place.chmod(0o777)
    del os.environ[upload_folder.UPLOADS]
    upload_folder.use_upload_folder()
    assert mode(place) == 0o700


def test_servers_share_no_upload_folder_and_one_that_has_ended_leaves_none(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = another_process(monkeypatch, temporary)
    (first / "picture.png").write_text("")
    lock = upload_folder._locks[str(first)]
    second = another_process(monkeypatch, temporary)
    assert second != first and (first / "picture.png").exists()
    lock.release()  # as the system does when a process is killed
    third = another_process(monkeypatch, temporary)
    assert not first.exists() and second.exists()
    names = {"folders.lock"} | {f"{folder.name}{end}" for folder in (second, third) for end in ("", ".lock")}
    assert {path.name for path in place_of(temporary).iterdir()} == names


def test_a_process_that_ends_removes_its_upload_folder(temporary: Path) -> None:
    use = "from vlcompare.ui.server import upload_folder; print(upload_folder.use_upload_folder())"
    environment = {**os.environ, upload_folder.UPLOADS: str(temporary)}
    ended = subprocess.run([sys.executable, "-c", use], env=environment, capture_output=True, text=True, check=True)
    assert Path(ended.stdout.strip()).parent == place_of(temporary)
    assert not list(place_of(temporary).glob("server-*"))


def test_a_copy_of_the_process_that_ends_leaves_its_upload_folder(temporary: Path) -> None:
    use = """
import os
from filelock import FileLock, Timeout
from vlcompare.ui.server import upload_folder
own = upload_folder.use_upload_folder()
child = os.fork()
if child:
    print(os.waitpid(child, 0)[1], own.is_dir())
    try:
        FileLock(own.with_suffix(".lock"), timeout=0).acquire()
    except Timeout:
        print("locked")
"""
    environment = {**os.environ, upload_folder.UPLOADS: str(temporary)}
    ended = subprocess.run([sys.executable, "-c", use], env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["0", "True", "locked"] and not ended.stderr
    assert not list(place_of(temporary).glob("server-*"))


def test_a_sweep_of_the_temporary_disk_leaves_the_upload_folder_and_its_mode(temporary: Path) -> None:
    folder = upload_folder.use_upload_folder()
    place = place_of(temporary)
    paths = (folder, folder.with_suffix(".lock"), place / "folders.lock", place)
    for path in paths:
        os.utime(path, (0, 0))
    upload_folder.keep_upload_folder()
    assert all(time.time() - path.stat().st_mtime < 60 and time.time() - path.stat().st_atime < 60 for path in paths)
    shutil.rmtree(place)
    folder.mkdir(parents=True, mode=0o755)  # as gradio does with the next upload
    upload_folder.keep_upload_folder()
    assert mode(place) == mode(folder) == 0o700
    shutil.rmtree(place)
    upload_folder.keep_upload_folder()
    assert mode(place) == mode(folder) == 0o700


def test_a_disk_on_which_nothing_can_be_locked(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*given: object, **how: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(upload_folder, "FileLock", unsupported)
    with pytest.raises(RequestError, match="cannot be written to .*TMPDIR"):
        upload_folder.use_upload_folder()


def test_a_page_is_built_where_gradios_own_folder_belongs_to_another_user(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gradio
    from gradio import mcp, routes

    folder = upload_folder.use_upload_folder()
    for module in (mcp, routes):
        monkeypatch.setattr(module, "DEFAULT_TEMP_DIR", "/dev/null/gradio")
    upload_folder.apply_upload_folder()
    assert mcp.DEFAULT_TEMP_DIR == routes.DEFAULT_TEMP_DIR == str(folder)
    gradio.Blocks(analytics_enabled=False)


def test_another_users_upload_folder_is_not_used(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upload_folder.use_upload_folder()
    del os.environ[upload_folder.UPLOADS]
    own = os.getuid()
    monkeypatch.setattr(upload_folder, "_user", lambda: str(own))
    monkeypatch.setattr(os, "getuid", lambda: own + 1)
    with pytest.raises(RequestError, match=f"vlcompare-{own} belongs to another user: .*TMPDIR"):
        upload_folder.use_upload_folder()


@pytest.mark.parametrize("kind", ["link", "file"])
def test_what_stands_in_the_upload_folders_place(temporary: Path, kind: str) -> None:
    place = place_of(temporary)
    if kind == "link":
        place.symlink_to(temporary)
    else:
        place.write_text("")
    with pytest.raises(RequestError, match=rf"The upload folder {place} is not a folder"):
        upload_folder.use_upload_folder()


def test_a_folder_that_is_named_is_made_and_a_full_disk_is_said(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(upload_folder.UPLOADS, str(temporary / "a" / "b"))
    assert upload_folder.use_upload_folder().parent == place_of(temporary / "a" / "b")
    (temporary / "link").symlink_to(temporary / "a" / "b")
    monkeypatch.setenv(upload_folder.UPLOADS, f"{temporary}/link/../c")
    assert upload_folder.use_upload_folder().parent == place_of(temporary / "a" / "c")
    (temporary / "loop").symlink_to("loop")
    monkeypatch.setenv(upload_folder.UPLOADS, str(temporary / "loop"))
    with pytest.raises(RequestError, match="The upload folder .*loop"):
        upload_folder.use_upload_folder()
    monkeypatch.setenv(upload_folder.UPLOADS, str(temporary))
    monkeypatch.setattr(upload_folder, "_locks", {})
    disk = os.statvfs(temporary)
    full = os.statvfs_result((disk.f_bsize, disk.f_frsize, disk.f_blocks, 0, 0, *tuple(disk)[5:]))
    monkeypatch.setattr(os, "statvfs", lambda folder: full)
    with pytest.raises(RequestError, match="No space left on device"):
        upload_folder.use_upload_folder()


def test_a_disk_that_an_ended_server_has_filled_is_not_full_for_the_next_one(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = another_process(monkeypatch, temporary)
    upload_folder._locks[str(first)].release()
    writable = upload_folder.check_writable

    def full(folder: Path) -> None:
        if first.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        writable(folder)

    monkeypatch.setattr(upload_folder, "check_writable", full)
    assert another_process(monkeypatch, temporary).is_dir() and not first.exists()


def test_no_temporary_folder_at_all(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    with pytest.raises(RequestError, match="no temporary folder"):
        upload_folder.use_upload_folder()


def test_old_files_are_swept_and_what_the_page_shows_is_kept(tmp_path: Path) -> None:
    names = ("old/a.png", "old/kept.png", "new/b.png", "tmpx")
    for name in names:
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text("")
        if not name.startswith("new"):
            os.utime(file, (time.time() - 4000,) * 2)
    assert upload_folder.sweep(tmp_path, {str(tmp_path / "old/kept.png")}) == 2
    assert sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.png")) == ["new/b.png", "old/kept.png"]
