"""The bench on tiny shapes: every contestant runs, rows are complete, ratios and floors add up, files are written."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from vlcompare.bench import contestants
from vlcompare.bench.models import ModelOptions, ModelReport, ModelRow, run
from vlcompare.bench.tables import plot, ratios, table
from vlcompare.cli import bench as command
from vlcompare.cli import build_parser, main
from vlcompare.errors import CheckpointError, DeviceMemoryError, RequestError
from vlcompare.models.config import MambaConfig, ModelConfig, PythiaConfig, VisionConfig
from vlcompare.runtime.loading.keys import FLOAT32

SCENE = {"stem": [8, 8, 16, 24], "depth": 1, "heads": 2, "hidden": 32, "grid": 4}
VISION = VisionConfig("vlcompare/scene", 64, scene=SCENE)
TINY = {
    "pythia": ModelConfig("pythia", VISION, PythiaConfig(64, 64, 2, 2, 128), 64),
    "mamba": ModelConfig("mamba", VISION, MambaConfig(64, 64, 2), 64),
}


HERE = Path(__file__).parent
WITHOUT_NUMBA = """
import sys
sys.modules.update(numba=None, llvmlite=None)
sys.path[:0] = [".", ".."]
import torch
from test_bench import TINY, contestants, steps
print(*steps(contestants.build(TINY[sys.argv[1]], "fp32", torch.device("cpu"))))
"""


def steps(vlm: contestants.VisionLanguageModel) -> list[int]:
    """The first tokens behind fixed embeddings."""
    embeddings = torch.randn(1, 9, 64, generator=torch.Generator().manual_seed(0))
    ours, found = contestants.Ours(vlm, embeddings, 4, graphs=False), []
    with torch.inference_mode():
        ours.prefill()
        for _ in range(4):
            assert ours.ids is not None
            found.append(int(ours.ids))
            ours.step()
    return found


@pytest.fixture(scope="module")
def report() -> ModelReport:
    options = ModelOptions(shapes=("pythia", "mamba"), precisions=("fp32",), prompt=30, tokens=3, repeats=2)
    return run(options, presets=TINY)


@pytest.mark.parametrize("shape", ["pythia", "mamba"])
def test_ours_and_theirs_are_timed_in_one_run(report: ModelReport, shape: str) -> None:
    rows = {row.who: row for row in report.rows if row.shape == shape}
    assert {"vlcompare", "transformers"} <= set(rows)
    assert not rows["transformers"].note
    for who in ("vlcompare", "transformers"):
        assert (rows[who].prefill_ms or 0) > 0 and (rows[who].token_ms or 0) > 0
    ours = rows["vlcompare"]
    assert ours.token_bytes and ours.token_ms and ours.gbytes_per_s and ours.bandwidth_share
    assert ours.gbytes_per_s == pytest.approx(ours.token_bytes / ours.token_ms / 1e6)
    assert ours.bandwidth_share == pytest.approx(ours.gbytes_per_s / report.machine["gbytes_per_s"])
    assert ours.vision_ms and ours.join_ms  # the first token waits for the connector, too
    assert ours.ttft_ms == pytest.approx(ours.vision_ms + ours.join_ms + (ours.prefill_ms or 0))
    assert ours.state_bytes and ours.peak_bytes and ours.load_s is not None


def test_both_contestants_compute_the_same() -> None:
    config = TINY["pythia"]
    vlm = contestants.build(config, "fp32", torch.device("cpu"))
    torch.manual_seed(0)
    with torch.inference_mode():
        embeddings = torch.randn(1, 9, 64)
        ours, theirs = contestants.Ours(vlm, embeddings, 4, graphs=False), contestants.Transformers(vlm, embeddings)
        for contestant in (ours, theirs):
            contestant.prefill()
        for _ in range(4):
            assert ours.ids is not None and theirs.ids is not None
            assert torch.equal(ours.ids, theirs.ids)
            ours.step()
            theirs.step()


@pytest.mark.parametrize("family", [pytest.param("pythia", marks=pytest.mark.slow), "mamba"])
def test_without_numba_steps_are_torchs(family: str) -> None:
    """As on a CUDA image that lacks it: nothing may fail there, on its CPU either."""
    done = subprocess.run([sys.executable, "-c", WITHOUT_NUMBA, family], capture_output=True, text=True, cwd=HERE)
    assert done.returncode == 0, done.stderr
    vlm = contestants.build(TINY[family], "fp32", torch.device("cpu"))
    assert done.stdout.split() == [str(token) for token in steps(vlm)]


@pytest.mark.parametrize("family", ["pythia", "mamba"])
def test_a_bf16_model_is_as_the_loader_makes_it_and_peers_run_on_it(family: str) -> None:
    """The recurrence stays float32; theirs is bf16 throughout."""
    vlm = contestants.build(TINY[family], "bf16", torch.device("cpu"))
    wide = {name for name, value in vlm.named_parameters() if value.dtype == torch.float32}
    assert all(f".{name}".endswith(FLOAT32) for name in wide) and len(wide) == (0 if family == "pythia" else 6)
    with torch.inference_mode():
        theirs = contestants.Transformers(vlm, torch.randn(1, 9, 64).bfloat16())
        assert {value.dtype for value in theirs.model.parameters()} == {torch.bfloat16}
        theirs.prefill()
        theirs.step()


def test_bytes_of_a_token_count_each_weight_once() -> None:
    pythia, mamba = (contestants.build(TINY[name], "fp32", torch.device("cpu")) for name in ("pythia", "mamba"))
    whole = sum(parameter.nbytes for parameter in pythia.language_model.parameters())
    assert contestants.token_bytes(pythia) == whole - 63 * 64 * 4  # one row of the embedding is read
    assert contestants.token_bytes(mamba) == sum(parameter.nbytes for parameter in mamba.language_model.parameters())


def test_what_cannot_run_here_is_a_row_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    from vlcompare.runtime.loading import quantize

    monkeypatch.setattr(quantize, "has_kernels", lambda method, device: False)
    report = run(ModelOptions(shapes=("mamba",), precisions=("nf4",)), presets=TINY)
    assert [row.note for row in report.rows] == ["no fast path for nf4 on this device"]


def test_a_gpu_that_is_full_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(device: torch.device) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("vlcompare.bench.models.describe", full)
    with pytest.raises(DeviceMemoryError, match="too little free memory to measure its bandwidth"):
        run(ModelOptions(shapes=("mamba",)), presets=TINY)


def test_what_is_known_is_kept_and_a_missing_library_costs_its_own_rows_only(monkeypatch: pytest.MonkeyPatch) -> None:
    from vlcompare.runtime.loading import quantize

    def absent(*given: object) -> None:
        raise CheckpointError("bitsandbytes cannot be used here.")

    monkeypatch.setattr(quantize, "has_kernels", lambda method, device: True)
    monkeypatch.setattr(quantize, "quantized_linear", absent)
    kept: list[ModelReport] = []
    options = ModelOptions(("pythia",), ("nf4", "int8", "fp32"), "cpu", 20, 1, 1, vision=False, peers=False)
    report = run(options, presets=TINY, kept=kept.append)
    assert [len(part.rows) for part in kept] == [1, 2, 3] and kept[-1].rows == report.rows
    assert [row.note for row in report.rows] == ["bitsandbytes cannot be used here."] * 2 + [""]
    assert report.rows[-1].token_ms


def test_no_plot_without_matplotlib_and_nothing_is_measured_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("matplotlib", "matplotlib.figure"):  # an earlier test may have imported either
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["bench", "--plot", str(tmp_path / "bench.png")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("vlcompare: A plot needs matplotlib") and "Measuring" not in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ModelOptions(shapes=("pythiavl_9b",)), "'pythiavl_9b' is not known"),
        (ModelOptions(precisions=("fp8",)), "'fp8' is not known"),
        (ModelOptions(repeats=0), "at least 1"),
        (ModelOptions(device="cuda:99"), "CUDA devices"),
    ],
)
def test_odd_wishes_are_refused(options: ModelOptions, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        run(options)


def test_table_ratios_and_files(report: ModelReport, tmp_path: Path) -> None:
    text = table(report)
    assert "transformers" in text and "GB/s measured" in text
    assert len(ratios(report)) == sum(not row.who.startswith("vlcompare") and not row.note for row in report.rows)
    assert all(len(line) <= 80 for line in text.splitlines()), text
    for row in report.rows:  # however many tables it takes, each has every contestant
        assert len(re.findall(rf"^{row.shape} +{row.precision} +{row.who}", text, re.M)) >= 1
    data = json.loads(json.dumps(report.to_json()))
    assert len(data["rows"]) == len(report.rows)
    assert {"threads", "kernels", "cache_policy", "versions", "gbytes_per_s"} <= set(data["machine"])
    plot(report, tmp_path / "bench.png")
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(RequestError, match="cannot be written"):
        plot(report, tmp_path / "missing" / "bench.png")


def test_ratio_is_ours_over_theirs(report: ModelReport) -> None:
    rows = (
        ModelRow("s", "bf16", "vlcompare", prefill_ms=50.0, token_ms=3.0),
        ModelRow("s", "bf16", "transformers", prefill_ms=100.0, token_ms=6.0),
        ModelRow("s", "fp32", "transformers", prefill_ms=1.0, token_ms=1.0),
    )
    assert ratios(ModelReport(report.machine, report.options, rows)) == [
        "s, bf16: vlcompare / transformers: prefill 0.50x, token 0.50x"
    ]


def test_command_refuses_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--shapes", "nothing"]) == 2
    assert capsys.readouterr().err.startswith("vlcompare: The shape 'nothing' is not known")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ["--what", "precisions", "--device", "cuda"],
            "`--what precisions` takes no --device, which is for models, batch",
        ),
        (["--what", "memory", "--threads", "1"], "`--what memory` takes no --threads"),
        (["--what", "page", "--plot", "x.png"], "`--what page` takes no --plot"),
        (["--what", "coverage", "--no-peers"], "`--what coverage` takes no --no-peers"),
        (["--token-ms", "3"], "`--what models` takes no --token-ms, which is for page"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(
    given: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("vlcompare.cli.bench._measure", lambda args: pytest.fail("measured"))
    assert main(["bench", *given]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1


def test_every_kind_takes_what_its_help_says() -> None:
    parser = build_parser().parse_args(["bench"]).parser
    texts = {action.dest: action.help for action in parser._actions}
    for name, (kinds, _, _) in command.OPTIONS.items():
        assert set(kinds) <= set(command.KINDS) and texts[name].startswith(f"{', '.join(kinds)}: ")
    for kind in command.KINDS:  # whose own code reads no option that the table does not give it
        args = parser.parse_args(["--what", kind])
        command.complete(args)
        for name, (kinds, _, _) in command.OPTIONS.items():
            if kind not in kinds:
                delattr(args, name)
        if kind not in ("models", "page"):
            command._OTHERS[kind](args)


@pytest.mark.parametrize("flag", ["--prompt", "--tokens", "--repeats", "--threads", "--rows"])
def test_a_number_of_nothing_names_its_option(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["bench", flag, "0"])
    assert stopped.value.code == 2 and f"argument {flag}: 0 is not above 0" in capsys.readouterr().err


@pytest.mark.parametrize("to_file", [False, True])
def test_the_command_writes_the_whole_report_once(
    to_file: bool,
    report: ModelReport,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def measured(options: ModelOptions, *, kept: Callable[[ModelReport], None], **more: object) -> ModelReport:
        kept(replace(report, rows=report.rows[:1]))
        return report

    monkeypatch.setattr("vlcompare.bench.models.run", measured)
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "--json", "bench.json" if to_file else "-"]) == 0
    out = capsys.readouterr().out
    assert ("GB/s measured" in out) is to_file
    told = json.loads((tmp_path / "bench.json").read_text() if to_file else out)
    assert told == json.loads(json.dumps(report.to_json()))
    assert [path.name for path in tmp_path.iterdir()] == (["bench.json"] if to_file else [])


PEER = """
import json, sys
print("loading", sys.argv[1:])
print(json.dumps({"prefill_ms": 1.5, "token_ms": 0.25 if sys.argv[1] == "pythia" else "none"}))
"""


@pytest.mark.slow
def test_another_program_takes_its_turns_and_one_that_fails_says_why(tmp_path: Path) -> None:
    (tmp_path / "peer.py").write_text(PEER)
    command = f"{sys.executable} {tmp_path / 'peer.py'} {{shape}} {{precision}} {{prompt}} {{tokens}} {{threads}}"
    options = ModelOptions(
        ("pythia", "mamba"), ("nf4",), "cpu", 20, 1, 2, vision=False, peers=False, peer_command=command
    )
    report = run(options, presets=TINY)
    ours, theirs, _, failed = report.rows
    assert ours.resident_bytes is not None and ours.bandwidth_share
    assert theirs.who == "command peer.py" and (theirs.prefill_ms, theirs.token_ms) == (1.5, 0.25)
    assert "must print a last line of JSON" in failed.note
    assert any("token" in line for line in table(report).splitlines() if "pythia, nf4" in line)


@pytest.mark.parametrize("command", ["", "'unended", "program {size}", "program {0}"])
def test_a_peer_command_that_is_none_is_refused(command: str) -> None:
    from vlcompare.bench.peer_command import PeerCommand

    with pytest.raises(RequestError, match="--peer-command"):
        PeerCommand(command, shape="mamba")


NEGATIVE = 'print(\'{"prefill_ms": -1, "token_ms": 1}\')'


@pytest.mark.parametrize("code", ["raise SystemExit(3)", "print('[]')", NEGATIVE])
def test_a_program_that_gives_no_times_is_named(code: str) -> None:
    import shlex

    from vlcompare.bench.peer_command import PeerCommand

    with pytest.raises(RequestError, match="python"):
        PeerCommand(f"{sys.executable} -c {shlex.quote(code.replace('{', '{{').replace('}', '}}'))}").measure()
