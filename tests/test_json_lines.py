"""Lines of JSON are read alike with the fast parser and without it."""

from __future__ import annotations

import json
import math

import pytest

from vlcompare.evaluate.readers import json_lines


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(
    "text",
    [
        '{"a": [1, 2.5, -1e-7, 0.1], "b": null}',
        '"\\u00e9 \\ud83d\\ude00"',
        '{"a": 1, "a": 2}',
        str(2**70),
        "  3 ",
    ],
)
def test_values_are_those_of_the_standard_library(text: str, fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not fast:
        monkeypatch.setattr(json_lines, "_fast", None)
    assert json_lines.loads(text.encode()) == json.loads(text)


def test_nan_is_read_and_what_is_no_json_is_refused() -> None:
    assert math.isnan(json_lines.loads(b'{"logprob": NaN}')["logprob"])
    for broken in (b"", b'{"a": ', b"{'a': 1}", b"\xff\xfe", b'"\\ud800"', b'"\\uD83D"', b'{"a": "\\udc00\\ud83d"}'):
        for read in (json_lines.loads, json_lines.exactly):
            with pytest.raises(ValueError):
                read(broken)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (b"{", "ends in the middle of a value"),
        (b'{"a": "b', "ends in the middle of a value"),
        (b"{,}", "a name in double quotes is missing at character 2"),
        (b'{"a": 1 "b": 2}', "a comma is missing at character 9"),
        (b'{"a" 1}', "a colon is missing"),
        (b'{"a": x}', "a value is missing"),
        (b"{} {}", "there is more behind its end"),
        (b'{"a": "\n"}', "a line break"),
        (b'{"a": "\\q"}', "a backslash"),
        (b'{"a": "\\u12"}', "a backslash"),
    ],
)
def test_what_is_wrong_with_a_text_is_said_in_our_own_words(broken: bytes, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        json_lines.loads(broken)
    said = json_lines.why(caught.value)
    assert words in said and caught.value.msg not in said


def test_a_byte_order_mark_is_no_part_of_a_line() -> None:
    assert json_lines.loads(b'\xef\xbb\xbf{"id": 1}') == json_lines.exactly(b'\xef\xbb\xbf{"id": 1}') == {"id": 1}


def test_whole_numbers_of_any_length_are_read_exactly() -> None:
    assert json_lines.exactly(b"[18446744073709551617]") == [2**64 + 1]


@pytest.mark.parametrize(
    ("value", "number"),
    [(1, 1.0), (-2.5, -2.5), (True, None), ("1", None), (None, None), (math.nan, None), (10**400, None)],
)
def test_finite_numbers(value: object, number: float | None) -> None:
    assert json_lines.finite(value) == number
