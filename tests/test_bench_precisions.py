"""The benchmark of precisions beside each other: who is compared with whom, and what is refused."""

from __future__ import annotations

import json

import pytest
from test_bench_memory import TINY

from vlcompare.bench import precisions
from vlcompare.cli import main
from vlcompare.errors import RequestError
from vlcompare.models.kernels import packed


@pytest.mark.parametrize("shape", TINY)
def test_every_precision_does_every_piece_of_work_beside_the_first(shape: str) -> None:
    given = ("bf16", "nf4") if packed.supported() else ("bf16", "fp32")
    options = precisions.PrecisionOptions((shape,), given, prompt=9, rows=(1, 6), repeats=2)
    report = precisions.run(options, presets=TINY)
    assert [(row.precision, row.work) for row in report.rows] == [
        (precision, work)
        for work in ("prompt of 9", "step of 1 row", "step of 6 rows")
        for precision in given
    ]  # fmt: skip
    assert all(row.milliseconds > 0 and row.ratio > 0 for row in report.rows)
    assert all(row.ratio == row.quickest_ratio == 1 for row in report.rows if row.precision == "bf16")
    text = precisions.table(report)
    assert "step of 6 rows" in text and "to bf16" in text
    assert json.loads(json.dumps(report.to_json()))["options"]["prompt"] == 9


def test_ratios_are_those_of_the_same_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds of very different speed, in which the second one always takes twice as long."""
    times = iter([9.0, 9.0, 1.0, 2.0, 10.0, 20.0, 3.0, 6.0])
    first, second = precisions._compared("s", "w", lambda model: next(times), {"bf16": None, "int8": None}, 3)
    assert (first.milliseconds, first.ratio) == (3000.0, 1.0)
    assert (second.milliseconds, second.ratio, second.quickest_ratio) == (6000.0, 2.0, 2.0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (precisions.PrecisionOptions(("nothing",)), "shape 'nothing' is not known"),
        (precisions.PrecisionOptions(("mamba",), ("fp8",)), "precision 'fp8' is not known"),
        (precisions.PrecisionOptions(("mamba",), ("bf16",), rows=(0,)), "at least 1"),
    ],
)
def test_what_cannot_be_measured_is_refused_at_once(options: precisions.PrecisionOptions, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        precisions.run(options, progress=lambda sentence: pytest.fail(sentence), presets=TINY)


def test_the_command_passes_its_options(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    seen = []
    row = precisions.PrecisionRow("mambavl_790m", "bf16", "prompt of 5", 1.0, 1.0, 1.0)
    machine = {"device": "cpu", "threads": 1, "capability": "any"}

    def run(options: precisions.PrecisionOptions, progress: object) -> precisions.PrecisionReport:
        seen.append(options)
        return precisions.PrecisionReport(machine, options, (row,))

    monkeypatch.setattr(precisions, "run", run)
    monkeypatch.setattr("psutil.cpu_percent", lambda interval: 55.0)
    given = ["--shapes", "mambavl_790m", "--precisions", "bf16", "nf4", "--prompt", "5", "--rows", "2", "3"]
    assert main(["bench", "--what", "precisions", *given]) == 0
    assert seen == [precisions.PrecisionOptions(("mambavl_790m",), ("bf16", "nf4"), 5, (2, 3), 5)]
    said = capsys.readouterr()
    assert "prompt of 5" in said.out and "busy when this began: other programs took 55 %" in " ".join(said.err.split())
    monkeypatch.setattr("psutil.cpu_percent", lambda interval: 5.0)
    assert main(["bench", "--what", "precisions", *given]) == 0
    assert "busy" not in capsys.readouterr().err
