"""The benchmark of batches against one by one, on a few questions: it measures, and the answers are the same."""

from __future__ import annotations

import pytest

from vlcompare.bench import batching
from vlcompare.errors import RequestError


def test_a_few_questions_are_answered_alike_and_timed() -> None:
    report = batching.run(batching.BatchOptions(count=12, batch_size=4, block=8))
    assert [row.checkpoint for row in report.rows] == list(batching.EMBEDDED)
    for row in report.to_json()["rows"]:
        assert row["same"] == row["count"] == 12
        assert row["single_s"] > 0 and row["batch_s"] > 0 and row["widest_gap"] < 1e-3
    assert batching.table(report).count("times as fast") == 2


def test_no_questions_is_one_sentence() -> None:
    with pytest.raises(RequestError, match="at least one question"):
        batching.run(batching.BatchOptions(count=0))
