"""The page's bench measures what it says: paced tokens, both ways, over a real server; no figure is tested here."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from vlcompare.bench import page
from vlcompare.bench.page import Pace, PageOptions, PageReport, Streaming
from vlcompare.cli import build_parser
from vlcompare.errors import RequestError
from vlcompare.ui.server import upload_folder


def test_streaming_alone_and_through_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(upload_folder.UPLOADS, str(tmp_path))
    said: list[str] = []
    report = page.run(PageOptions(token_ms=10, tokens=4, repeats=1, opening=False), said.append)
    assert [row.work for row in report.streaming] == ["waits", "computes"] and len(said) == 2
    for row in report.streaming:
        for seconds in (row.stream_alone_s, row.stream_page_s):
            assert seconds > 0  # on a busy machine the gaps after a late token are short
        assert row.whole_page_s > row.stream_page_s and row.whole_alone_s > row.stream_alone_s
        assert row.updates >= 2 and row.bytes > 1000
    assert os.environ[upload_folder.UPLOADS] in upload_folder._locks  # a folder of its own
    assert "engine alone" in page.table(report) and report.open_s is None
    found = json.loads(json.dumps(report.to_json()))
    assert found["streaming"][0]["overhead"] == pytest.approx(report.streaming[0].overhead)


def test_the_table_names_goals_and_figures() -> None:
    rows = (Streaming("waits", 1.0, 1.03, 1.2, 1.4, 30, 50_000),)
    shown = page.table(PageReport(PageOptions(), rows, 4.2, 3.0, 0.6))
    for part in ("4.20 s   (goal 8 s)", "0.60 s   (goal 1.5 s)", "+3.0%   (goal at most 5%)", "30 updates, 50 KB"):
        assert part in shown


def test_a_pace_stretches_what_is_looked_at_only_while_it_is_on() -> None:
    cancel = threading.Event()
    worked: list[float] = []
    pace = Pace(cancel, 600.0, worked.append)
    assert not pace.is_set() and not worked
    pace.on = True
    assert not pace.is_set() and 0 < worked.pop() <= 600 and not worked  # what is left of the token's time
    pace = Pace(cancel, 0.05, time.sleep)
    pace.on = True
    start = time.perf_counter()
    assert not pace.is_set() and not pace.is_set() and time.perf_counter() - start >= 0.049
    pace.set()
    assert cancel.is_set() and pace.is_set()


@pytest.mark.parametrize("options", [PageOptions(token_ms=0), PageOptions(tokens=1), PageOptions(repeats=0)])
def test_what_cannot_be_measured_is_said(options: PageOptions) -> None:
    with pytest.raises(RequestError):
        page.run(options)


def test_the_command_takes_it() -> None:
    args = build_parser().parse_args(["bench", "--what", "page", "--token-ms", "50", "--tokens", "8"])
    assert (args.what, args.token_ms, args.tokens) == ("page", 50.0, 8)
