"""Fifty thousand samples on the inspect page: how long it takes to open, to filter, to page, and what memory it takes.

Times are processor time, in units of this machine's pace just then, so that other work on it does not decide; `-s`
shows the figures. Everything is measured in a process of its own, over the page with nothing open.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vlcompare.bench.inspect import write_many

pytestmark = pytest.mark.slow
COUNT = 50_000
LOOP = 0.25  # seconds that five million additions take on a core of 2023 that has nothing else to do
MEASURE = """
import json, os, sys, time
import psutil
from pathlib import Path
from vlcompare.runtime.image import open_image
from vlcompare.ui.inspect import handlers as actions
from vlcompare.ui.compare.handlers import Handlers
from vlcompare.ui.inspect.library import Library
from vlcompare.ui.inspect.session import Inspection
from vlcompare.ui.page import build_page
from vlcompare.ui.settings import AppSettings

folder = Path(sys.argv[1])
settings = AppSettings(data=folder / "data")
page = build_page(settings, Handlers(settings, None, None, open_image))
process = psutil.Process()
empty = process.memory_info().rss
found = {}

def timed(name, act):
    start, wall = time.process_time(), time.monotonic()
    page = act()
    assert "error" not in page["message"], page["message"]
    found[name] = [time.process_time() - start, time.monotonic() - wall, sum(len(str(v)) for v in page.values())]

start = time.process_time()
total = 0
for number in range(5_000_000):
    total += number
pace = max(1.0, (time.process_time() - start) / LOOP)
inspection = Inspection(Library(None, [folder], shipped=folder))
timed("open", lambda: actions.start(inspection))
assert inspection.data.table.count == COUNT
timed("quadrant", lambda: actions.click(inspection, "quadrant:only_left"))
timed("page", lambda: actions.click(inspection, "page:100"))
timed("text", lambda: actions.fill(inspection, "red cat", False, False, 0, "", ""))
timed("text again", lambda: actions.fill(inspection, "blue fish", False, False, 0, "", ""))
timed("pattern", lambda: actions.fill(inspection, r"(red|green) \\w+ number \\d*7$", True, False, 0, "", ""))
timed("differ and gap", lambda: actions.fill(inspection, "", False, True, 0.2, "", ""))
timed("all", lambda: actions.click(inspection, "drop:all"))
for name in ("difference", "gap", "text"):
    timed("sort " + name, lambda: actions.click(inspection, "sort:" + name))
timed("last page", lambda: actions.click(inspection, "page:999"))
timed("slice", lambda: actions.click(inspection, "slice:task|grounding"))
timed("slice by", lambda: actions.slice_by(inspection, "position"))
timed("draw", lambda: actions.draw(inspection, "confidence"))
timed("bar", lambda: actions.click(inspection, "bin:left:iou:0.5:0.55"))
timed("sample", lambda: actions.step(inspection, 1))
timed("next", lambda: actions.step(inspection, 1))
found["pace"] = pace
found["megabytes"] = (process.memory_info().rss - empty) / 1e6
print(json.dumps(found))
"""


def test_fifty_thousand_samples_stay_quick_and_small(tmp_path: Path) -> None:
    folder = write_many(tmp_path / "many", COUNT)
    code = MEASURE.replace("COUNT", str(COUNT)).replace("LOOP", str(LOOP))
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1", "VLCOMPARE_DATA": str(tmp_path / "data")},
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    megabytes, pace = found.pop("megabytes"), found.pop("pace")
    for name, (seconds, wall, characters) in found.items():
        print(f"{name:16} {seconds:7.3f} s of work {wall:7.2f} s {characters / 1000:8.0f} kB to the page")
    print(f"memory grew by {megabytes:.0f} MB; this machine took {pace:.1f} times as long as a free one")
    opened = found.pop("open")
    assert opened[0] < 5.0 * pace and megabytes < 500
    slow = {name: seconds for name, (seconds, _, _) in found.items() if seconds >= 0.5 * pace}
    assert not slow
    assert max(characters for _, _, characters in found.values()) < 400_000  # rows stay on the server
