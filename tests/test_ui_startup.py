"""What is checked before the page is served: one sentence each, and what is made is the user's alone."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest

from vlcompare.errors import RequestError
from vlcompare.ui.server import startup


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


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
