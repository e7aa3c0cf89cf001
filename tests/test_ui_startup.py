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


def test_the_first_free_port_is_looked_for_where_the_page_is_served() -> None:
    """gradio looks at 127.0.0.1 alone."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.2", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert startup.free_port("127.0.0.2", port) > port
        assert startup.free_port("127.0.0.1", port) == port
    with pytest.raises(RequestError, match="None of the ports 65536 to 65535 can be used"):
        startup.free_port("127.0.0.1", 65536)


@pytest.mark.parametrize(("port", "tries"), [(None, 3), (7860, 1)])
def test_a_server_that_starts_at_no_port_ends_with_a_sentence(
    port: int | None, tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gradio calls every failure of its server at start a port that is taken."""
    import gradio as gr

    from vlcompare.ui.page import launch
    from vlcompare.ui.settings import AppSettings

    tried = []

    def fails(page: gr.Blocks, *, server_port: int, **options: object) -> None:
        tried.append(server_port)
        raise OSError("Cannot find empty port in range")

    monkeypatch.setattr(gr.Blocks, "launch", fails)
    with gr.Blocks() as page:
        gr.Textbox()
    with pytest.raises(RequestError, match=r"The port \d+ is taken: choose another with --port"):
        launch(page, AppSettings(port=port))
    assert len(tried) == tries == len(set(tried))


def test_a_port_that_another_process_takes_at_the_last_moment_is_not_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    import gradio as gr

    from vlcompare.ui.page import launch
    from vlcompare.ui.settings import AppSettings

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found, real = [], startup.free_port

        def looked(host: str, first: int = port) -> int:
            found.append(real(host, first) if found else first)
            return found[-1]

        monkeypatch.setattr(startup, "free_port", looked)
        with gr.Blocks() as page:
            gr.Textbox()
        _, address, _ = launch(page, AppSettings(), prevent_thread_lock=True)
        page.close()
    assert found[0] == port and len(found) == 2 and address == f"http://127.0.0.1:{found[1]}/"
