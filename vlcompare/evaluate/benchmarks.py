"""Names of data sets: what a set is called whose file does not say it, and whose scripts count short answers.

Columns such as {image, question, answer}, {image, caption} or lettered choices are those of many sets. VizWiz and
OK-VQA are known by what stands in their rows; any other is called as its Hub repository, its file or its folder is. A
name that would choose a benchmark's prompt or scoring is left out then: these go by the keys that are found, or are
declared with --source.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlcompare.tasks.forms import known_source

if TYPE_CHECKING:
    from vlcompare.evaluate.readers.source import DatasetSource

# the start of a row's source -> the benchmark whose script counts it; VQA's own counts VQAv2 and OK-VQA, too (and not
# VQA-RAD or VQA-Med, which share its name only)
_SCRIPTS = (
    ("pope", re.compile("pope")),
    ("gqa", re.compile("gqa")),
    ("vqa", re.compile(r"vqa(?:[-_ ](?:train|val|test)\w*)?\Z|vqa[-_ ]?v?[12]|ok[-_ ]?vqa")),
)


@lru_cache(maxsize=1024)
def script_of(source: str) -> str:
    """ "pope", "gqa" or "vqa", whose script counts the rows of this source; "" for the usual harnesses' figure."""
    return next((name for name, pattern in _SCRIPTS if pattern.match(source.lower())), "")


# ---- sets of common columns ------------------------------------------------------------------------------------------

# names that many files and folders have; the numbers of a split's shards ("test-00000-of-00002") belong to them
_COMMON = re.compile(
    r"(?:all|annotations?|data|datasets?|default|desktop|dev|downloads?|file|home|input|jsons?|main|part|questions?|root|"
    r"rows|samples?|test|testmini|tmp|train|val|valid|validation|work|[a-z])?(?:[\W_]|\d|of)*\Z",
    re.IGNORECASE,
)
_LENGTH = 60  # characters
_OK_VQA = frozenset(("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "other"))


def set_of_row(source: DatasetSource, row: Mapping[str, Any]) -> str | None:
    """The set that a row of question, answers and picture belongs to: as declared, by its own values, else by name."""
    if source.source:
        return source.source
    image = row.get("image")
    for value in (row.get("question_id"), image.get("path") if isinstance(image, dict) else image):
        if isinstance(value, str) and value[:300].rpartition("/")[2].startswith("VizWiz_"):
            return "vizwiz"
    if "answer_type" in row and row.get("question_type") in _OK_VQA and isinstance(row.get("answers"), list):
        return "okvqa"  # its kinds of questions are numbered; VQA's are the questions' first words
    return set_name(source)


def set_name(source: DatasetSource) -> str | None:
    """As declared, else what the Hub repository, the file or its folder is called; None where that says nothing."""
    return source.source or _name(source.path, source.hub_id)


@lru_cache(maxsize=64)
def _name(path: Path, hub_id: str) -> str | None:
    name = next((name for name in _names(path, hub_id) if not _COMMON.match(name)), "")[:_LENGTH]
    return None if not name or known_source(name) or script_of(name) else name


def _names(path: Path, hub_id: str) -> Iterator[str]:
    if hub_id:
        yield hub_id.rpartition("/")[2]
        return
    path = path.absolute()
    for folder in path.parents:  # a Hub cache: datasets--OWNER--NAME/snapshots/REVISION/..
        if folder.parent.name == "snapshots" and "--" in folder.parent.parent.name:
            yield folder.parent.parent.name.rpartition("--")[2]
            return
    yield path.name.partition(".")[0]
    yield from (folder.name for folder in path.parents[:2])
