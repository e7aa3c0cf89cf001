"""Lines of JSON are read alike with the fast parser and without it."""

from __future__ import annotations

import json
import math

import pytest

from vlcompare.evaluate import lines


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(
    "text",
    [
        '{"a": [1, 2.5, -1e-7, 0.1], "b": null}',
        '"\\u00e9 \\ud83d\\ude00"',
        '{"a": 1, "a": 2}',
        str(2**70),
        '"\\ud800"',
        "  3 ",
    ],
)
def test_values_are_those_of_the_standard_library(text: str, fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not fast:
        monkeypatch.setattr(lines, "_fast", None)
    assert lines.loads(text.encode()) == json.loads(text)


def test_nan_is_read_and_what_is_no_json_is_refused() -> None:
    assert math.isnan(lines.loads(b'{"logprob": NaN}')["logprob"])
    for broken in (b"", b'{"a": ', b"{'a': 1}", b"\xff\xfe"):
        with pytest.raises(ValueError):
            lines.loads(broken)
