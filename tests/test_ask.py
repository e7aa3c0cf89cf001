"""The command `ask` with a fake model: what is printed and written, and that mistakes are told before any loading."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vlcompare.cli import main
from vlcompare.cli.report import answers_table, plain
from vlcompare.errors import CheckpointError
from vlcompare.types import Answer, Box, Memory, Prompt, Request, Step, Timings, Token

ANSWER = Answer(
    text="[0.10,0.60,0.35,0.87].",
    boxes=(Box(0.1, 0.6, 0.35, 0.87),),
    parse="ok",
    tokens=(Token(5, "[0.10,", -0.1), Token(6, "0.60,0.35,0.87].", -0.2)),
    prompt=Prompt(("<image>", "Locate"), (1, -200, 2), "image_first"),
    stop_reason="end",
    timings=Timings(2.5, 9.0, 8.0, 20.0, (4.0, 6.0, 2000.0), 2030.0, 1.5),
    memory=Memory(12_000_000, 512, 512, 99_000_000),
    checkpoint="tiny-mamba-vl",
    revision=None,
    dtype="float32",
    device="cpu",
    image_size=112,
)


class FakeModel:
    def notices_for(self, request: Request) -> tuple[str, ...]:
        return ("This image size was not trained.",)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stand-ins for loading and asking; what they were given."""
    seen: dict[str, Any] = {"answer": ANSWER}

    def load(checkpoint: str, **settings: Any) -> FakeModel:
        if checkpoint == "own/missing":
            raise CheckpointError("There is no checkpoint missing.")
        seen.update(checkpoint=checkpoint, settings=settings)
        return FakeModel()

    def stream_request(model: FakeModel, image: str, request: Request):
        seen.update(image=image, request=request, limits=[*seen.get("limits", []), request.max_new_tokens])
        yield ANSWER.prompt
        yield Step(0, 5, "[0.10,", -0.1, (), 0.02)
        yield Step(1, 6, "0.60,0.35,0.87].\x1b[2J", -0.2, (), 0.004)
        yield seen["answer"]

    monkeypatch.setattr("vlcompare.runtime.loading.load.load", load)
    monkeypatch.setattr("vlcompare.runtime.engine.stream_request", stream_request)
    return seen


@pytest.fixture
def picture(tmp_path: Path) -> str:
    path = tmp_path / "picture.png"
    Image.new("RGB", (200, 150), (90, 90, 90)).save(path)
    return str(path)


def test_the_answer_streams_and_a_table_follows(calls: dict, picture: str, capsys) -> None:
    assert main(["ask", picture, "--task", "grounding", "--text", "the red car"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("[0.10,0.60,0.35,0.87].\N{REPLACEMENT CHARACTER}[2J\n\n") and "\x1b" not in out
    for line in (
        "first token   20.0 ms",
        "· prefill     8.0 ms for 3 positions",
        "cache, state  512 B (formula: 512 B)",
    ):
        assert line in out
    assert "note: This image size was not trained." in err
    assert calls["checkpoint"] == "tiny-mamba-vl" and calls["image"] == picture
    assert calls["request"] == Request("grounding", "the red car")


def test_every_option_reaches_its_place(calls: dict, picture: str) -> None:
    options = "--source ai2d --prompt-order instruction_first --max-new-tokens 7 --temperature .5 --top-p .9 --top-k 5"
    model = "--checkpoint owner/name --revision abc --quantization nf4 --dtype bfloat16 --device cpu --image-size 224"
    more = ["--text", "What?", "--choices", "a", "b", "--ocr-text", "A: x", "--tokenizer", "t.json", "--seed", "3"]
    assert main(["ask", picture, "--task", "multiple_choice", *options.split(), *model.split(), *more]) == 0
    assert calls["request"] == Request(
        "multiple_choice", "What?", ("a", "b"), None, "A: x", (), "ai2d", "instruction_first", 7, True, 0.5, 0.9, 5, 3
    )
    settings = {name: value for name, value in calls["settings"].items() if name != "progress"}
    assert calls["checkpoint"] == "owner/name" and settings == {
        "device": "cpu",
        "dtype": "bfloat16",
        "quantization": "nf4",
        "image_size": 224,
        "revision": "abc",
        "tokenizer": "t.json",
    }


@pytest.mark.parametrize(
    "arguments, request_",
    [
        ([], Request("captioning")),
        (["--text", "Why?"], Request("vqa", "Why?")),
        (
            ["--task", "region_description", "--box", "0.1,0.2,.5,1"],
            Request("region_description", box=Box(0.1, 0.2, 0.5, 1)),
        ),
        (
            ["--task", "pointing", "--text", "q", "--choices", "0,0,1,1", "[0.1, 0.2, 0.5, 1]"],
            Request("pointing", "q", (Box(0, 0, 1, 1), Box(0.1, 0.2, 0.5, 1))),
        ),
    ],
)
def test_requests(arguments: list[str], request_: Request, calls: dict, picture: str) -> None:
    assert main(["ask", picture, *arguments]) == 0
    assert calls["request"] == request_


def test_warming_up_asks_for_a_few_tokens_first(calls: dict, picture: str, capsys) -> None:
    assert main(["ask", picture]) == 0 and calls.pop("limits") == [None]
    assert "Times of a first run" in capsys.readouterr().out
    assert main(["ask", picture, "--warm-up"]) == 0 and calls["limits"] == [3, None]
    out = capsys.readouterr().out
    assert "Times of a first run" not in out and out.count("[0.10,") == 2  # streamed once, and once in the table


def test_json_and_picture_are_written(calls: dict, picture: str, tmp_path: Path, capsys) -> None:
    target, saved = tmp_path / "answer.json", tmp_path / "out.png"
    arguments = ["ask", picture, "--task", "grounding", "--text", "a car", "--json", str(target), "--save", str(saved)]
    assert main(arguments) == 0
    assert Answer.from_json(json.loads(target.read_text())) == ANSWER
    with Image.open(saved) as image:
        assert image.width >= 1200  # the result card, which has tests of its own
    capsys.readouterr()
    assert main(["ask", picture, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == ANSWER.text  # nothing else on standard output


def test_a_failed_answer_is_one_sentence_and_status_1(calls: dict, picture: str, tmp_path: Path, capsys) -> None:
    calls["answer"] = Answer(error="The device has too little memory.", stop_reason="error")
    assert main(["ask", picture, "--save", str(tmp_path / "out.png")]) == 1
    assert "vlcompare: The device has too little memory.\n" in capsys.readouterr().err


REFUSED = [
    (["--task", "vqa"], "needs a question"),
    (["--text", "q", "--source", "no such set"], "Unknown prompt form 'no such set'"),
    (["--task", "region_description", "--box", "1,2,3"], "cannot be read"),
    (["--temperature", "-1"], "temperature must be"),
    (["--json", "/nowhere/a.json"], "--json /nowhere/a.json cannot be written"),
    (["--save", "out.gif"], "--save out.gif must end in"),
    (["--checkpoint", "own/missing"], "There is no checkpoint"),
    (["--checkpoint", "tiny-mamba"], "did you mean tiny-mamba-vl?"),
    (["--task", "grounding", "--text", "x", "--truth", "red"], "true box 'red' cannot be read"),
]


@pytest.mark.parametrize("arguments, sentence", REFUSED, ids=[" ".join(case[0]) for case in REFUSED])
def test_mistakes_are_one_sentence_and_status_2(
    arguments: list[str], sentence: str, calls: dict, picture: str, capsys
) -> None:
    status = main(["ask", picture, *arguments])
    err = capsys.readouterr().err
    assert status == 2 and err.startswith("vlcompare: ") and sentence in err and err.count("\n") == 1
    assert "request" not in calls


@pytest.mark.parametrize("content, sentence", [(b"", "empty"), (None, "does not exist")])
def test_a_bad_picture_is_told_before_loading(
    content: bytes | None, sentence: str, calls: dict, tmp_path, capsys
) -> None:
    path = tmp_path / "bad.png"
    if content is not None:
        path.write_bytes(content)
    assert main(["ask", str(path)]) == 2
    assert sentence in capsys.readouterr().err and "checkpoint" not in calls


def test_help_is_light() -> None:
    code = (
        "import sys\nfrom vlcompare.cli import main\n"
        "try: main(['ask', '--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'timm', 'transformers', 'PIL', 'numpy', 'tokenizers'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr
    assert "--prompt-order" in done.stdout and "grounding            Describe one thing" in done.stdout


def test_table_of_two_sides() -> None:
    other = dataclasses.replace(ANSWER, checkpoint="other", timings=dataclasses.replace(ANSWER.timings, ttft_ms=40.0))
    lines = answers_table({"left": ANSWER, "right": other}).splitlines()
    assert lines[0].split() == ["left", "right", "left/right"]
    row = {line.split("  ")[0]: line.split()[-1] for line in lines[1:]}
    assert row["first token"] == "0.50" and row["a token"] == "1.00" and "6.0 ms (median)" in "\n".join(lines)
    failed = answers_table({"left": ANSWER, "right": Answer(error="It failed.", checkpoint="other")}).splitlines()
    assert failed[1].startswith("answer") and "failed, see above" in failed[1]


@pytest.mark.parametrize("columns", [120, 80, 60, 40])
def test_the_table_fits_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    long = dataclasses.replace(ANSWER, text="a caption of many words " * 9, boxes=(), checkpoint="c" * 70)
    table = answers_table({"left": long, "right": ANSWER})
    assert max(map(len, table.splitlines())) <= columns
    assert "".join(table.split()).count("c" * 5) >= 1


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert plain(
        "a\x1b]0;x\x07\r\nb\tc\x9b日"
    ) == "a\N{REPLACEMENT CHARACTER}]0;x" + "\N{REPLACEMENT CHARACTER}" * 2 + ("\nb\tc\N{REPLACEMENT CHARACTER}日")
