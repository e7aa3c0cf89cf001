"""Files and links: a run survives export and import, damage gets a sentence, votes need consent, links are total."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from PIL import Image
from test_ui_cards import EVIL, answer, run_of
from ui_fakes import write_examples

from vlcompare.cli import build_parser, main
from vlcompare.cli.serve import settings_of
from vlcompare.errors import RequestError
from vlcompare.paths import EXAMPLES
from vlcompare.repeats import Repeats
from vlcompare.types import SIDES, Box, Request, Side, Timings
from vlcompare.ui import examples
from vlcompare.ui.compare import files, permalink
from vlcompare.ui.compare.example_questions import question
from vlcompare.ui.compare.forms import AskForm, shown_side
from vlcompare.ui.compare.handlers import open_picture
from vlcompare.ui.compare.panels.repeat import repeats_view
from vlcompare.ui.compare.picture import size_line
from vlcompare.ui.compare.session import Picture
from vlcompare.ui.compare.votes import COLUMNS, Votes
from vlcompare.ui.page import serve
from vlcompare.ui.server.options import QUOTA_VARIABLES, SERVER_VARIABLES
from vlcompare.ui.server.startup import check_address
from vlcompare.ui.server.uploads import largest_upload
from vlcompare.ui.settings import LIMIT_VARIABLES, VARIABLES, AppSettings, Limits, parse_bytes


def exported(run: Any) -> bytes:
    return json.dumps(files.run_to_json(run)).encode()


@pytest.mark.parametrize(
    "request_",
    [
        Request("grounding", "the square"),
        Request("pointing", "which?", choices=(Box(0, 0, 0.5, 0.5), Box(0.5, 0.5, 1, 1))),
        Request("region_description", box=Box(0.1, 0.1, 0.4, 0.4)),
        Request("chat", EVIL.replace("\x00", "")),
    ],
    ids=lambda r: r.task,
)
def test_a_run_comes_back_as_it_was(request_: Request) -> None:
    times = Timings(*(9.5,) * 4, (1.5, 2.5), 99.0, 12.0, "race", True, 2, 30.5, 4.5, 7)
    run = run_of(answer(timings=times), request=request_, truth=(Box(0.1, 0.2, 0.3, 0.4),), references=("a",))
    run.voted = "tie"
    asked = Side("tiny-mamba-vl", "int8", "instruction_first", 98, "cpu", "float32", 9, 0.5, 0.9, 40, 3)
    run.sides["left"].settings = asked
    back = files.run_from_json(exported(run), Limits())
    assert files.run_to_json(back) == files.run_to_json(run)
    assert back.answer("left") == run.answer("left") and back.picture == run.picture
    assert back.sides["left"].settings == asked and back.answer("left").timings == times


def test_a_copy_of_a_large_picture_says_so_and_keeps_the_size_of_the_original() -> None:
    buffer = io.BytesIO()
    noise = Image.frombytes("RGB", (1800, 1200), os.urandom(1800 * 1200 * 3))
    noise.save(buffer, "PNG", compress_level=1)
    run = run_of()
    run.picture = Picture.of(noise, buffer.getvalue())
    assert run.picture.reduced and "Original 1800×1200 (a smaller copy is asked about)" in size_line(run.picture, None)
    back = files.run_from_json(exported(run), Limits()).picture
    assert (back.width, back.height, back.reduced) == (1800, 1200, True)
    found = files.run_to_json(run)
    found["picture"]["height"] = 900
    with pytest.raises(RequestError, match="another shape"):
        files.run_from_json(json.dumps(found).encode(), Limits())


def test_the_operators_limit_of_a_picture_is_the_only_one() -> None:
    limits = Limits(file_bytes=64 * 2**20)
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), "red").save(buffer, "JPEG")
    data = buffer.getvalue() + bytes(40 * 2**20)
    assert len(data) < largest_upload(limits) and open_picture(data).size == (4, 3)
    assert largest_upload(Limits(file_bytes=1)) == Limits().import_bytes


def test_a_repeated_comparison_keeps_its_rounds() -> None:
    run = run_of()
    rounds = tuple(
        {side: Timings(ttft_ms=10.0 + n + own, token_ms=(2.0, 3.0 + own), total_ms=40.0, threads=1, cpu_ms=20.0)
         for own, side in enumerate(SIDES)}
        for n in range(3)
    )  # fmt: skip
    run.repeats = Repeats(rounds, 5)
    back = files.run_from_json(exported(run), Limits())
    assert back.repeats == run.repeats and back.repeats.busy
    assert "Stopped after 3 rounds of 5" in repeats_view(back)
    run.repeats = None
    assert files.run_from_json(exported(run), Limits()).repeats is None


def edits(found: dict[str, Any]) -> list[tuple[str, bytes]]:
    """A file damaged in many ways, each with a word of the sentence."""

    def changed(path: str, value: Any) -> bytes:
        copy = json.loads(json.dumps(found))
        *keys, last = path.split(".")
        place = copy
        for key in keys:
            place = place[key]
        if value is ...:
            place.pop(last)
        else:
            place[last] = value
        return json.dumps(copy).encode()

    whole = json.dumps(found).encode()
    return [
        ("not JSON", whole[:400]),
        ("not JSON", b"\xff\xfe\x00"),
        ("not JSON", b"[" * 100_000),
        ("not an exported run", b"[]"),
        ("not an exported run", b'{"kind": "other"}'),
        ("version 99", changed("version", 99)),
        ("damaged", changed("sides.left", ...)),
        ("damaged", changed("sides.left.tokens", [{"id": "x"}])),
        ("damaged", changed("sides.left.text", {"a": 1})),
        ("damaged", changed("sides.left.schema_version", 7)),
        ("damaged", changed("sides.left.timings.ttft_ms", "soon")),
        ("damaged", changed("sides.right.boxes", [[0, 0, 1]])),
        ("damaged", changed("picture.base64", "AAAA")),
        ("damaged", changed("picture.base64", "***")),
        ("damaged", changed("request.task", "juggling")),
        ("damaged", changed("settings.left", {})),
        ("damaged", changed("mode", "gallop")),
        ("damaged", changed("truth", ["x"])),
    ]


@pytest.mark.parametrize("index", range(18))
def test_damage_gets_a_sentence(index: int) -> None:
    said, data = edits(files.run_to_json(run_of()))[index]
    with pytest.raises(RequestError, match=said):
        files.run_from_json(data, Limits())
    with pytest.raises(RequestError, match="larger"):
        files.run_from_json(data, Limits(import_bytes=1))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("sides.left.timings.token_ms", [math.inf]),
        ("sides.left.timings.ttft_ms", math.nan),
        ("sides.left.memory.state_trace", [1, 10**300]),
        ("sides.left.memory.state_bytes_formula", 10**400),
        ("sides.left.boxes", [[0, 0, 1, math.nan]]),
        ("sides.left.tokens", [{"id": 1, "text": "a", "logprob": math.nan}]),
        ("sides.left.tokens", [{"id": 1, "text": "a", "logprob": 0, "top": [{"id": 1, "text": "", "logprob": 1e300}]}]),
        ("sides.left.prompt", {"turns": [5], "ids": [1], "order": "image_first"}),
        ("sides.left.prompt", {"turns": ["a"], "ids": [1], "order": None}),
        ("created", 1e300),
        ("created", math.nan),
        ("truth", [[0, 0, math.inf, 1]]),
        ("settings.left.image_size", "large"),
        ("settings.left.quantization", "int2"),
        ("settings.left.prompt_order", "sideways"),
    ],
)
def test_what_cannot_be_shown_is_not_imported(path: str, value: Any) -> None:
    """Else it would stand in the history, and no later run of the visit could be shown beside it."""
    found = files.run_to_json(run_of())
    *keys, last = path.split(".")
    place = found
    for key in keys:
        place = place[key]
    place[last] = value
    with pytest.raises(RequestError, match="damaged"):
        files.run_from_json(json.dumps(found).encode(), Limits())


def test_llm_comparator_has_every_required_field() -> None:
    """github.com/PAIR-code/llm-comparator, "JSON Data Format"."""
    runs = [run_of(voted="left", request=Request("grounding", "one")), run_of(request=Request("chat", "two"))]
    found = files.to_llm_comparator(runs)
    assert set(found) == {"metadata", "models", "examples"} and len(found["models"]) == 2
    names = {row["name"] for row in found["metadata"]["custom_fields_schema"]}
    for example in found["examples"]:
        assert {"input_text", "tags", "output_text_a", "output_text_b", "score", "individual_rater_scores"} < set(
            example
        )
        assert set(example["custom_fields"]) == names and -1.5 <= example["score"] <= 1.5
    assert [example["score"] for example in found["examples"]] == [1.0, 0.0]
    with pytest.raises(RequestError):
        files.to_llm_comparator([])


def test_each_model_has_its_column_in_llm_comparator_whichever_side_it_was_on() -> None:
    runs = [run_of(voted="left"), run_of(voted="left"), run_of(voted="tie")]
    for side, part in runs[0].sides.items():
        part.answer = replace(part.answer, text=side)  # type: ignore[type-var]
    runs[1].swap()  # the vote goes along
    found = files.to_llm_comparator(runs)
    names = [runs[0].sides[side].settings.checkpoint for side in SIDES]
    assert [model["name"] for model in found["models"]] == names and len(set(names)) == 2
    assert [example["score"] for example in found["examples"]] == [1.0, 1.0, 0.0]
    assert [example["custom_fields"]["checkpoint"] for example in found["examples"]] == [names] * 3
    assert found["examples"][0]["output_text_a"] == "left" and f"vote: {names[0]}" in found["examples"][1]["tags"]
    orders = run_of(answer(checkpoint="one"), answer(checkpoint="one"), voted="left")
    orders.sides["right"].settings = Side("one", prompt_order="instruction_first")
    turned = run_of(answer(checkpoint="one"), answer(checkpoint="one"), voted="right")
    turned.sides["left"].settings = Side("one", prompt_order="instruction_first")
    same_model = files.to_llm_comparator([orders, turned])
    assert [model["name"] for model in same_model["models"]] == ["one", "one · instruction first"]
    assert [example["score"] for example in same_model["examples"]] == [1.0, 1.0]
    other = run_of()
    other.sides["left"].settings = Side("someone/else")
    mixed = files.to_llm_comparator([*runs, other])
    assert [model["name"] for model in mixed["models"]] == list(SIDES)  # of each side there are several


def test_the_card_picture_is_a_picture() -> None:
    run = run_of(truth=(Box(0.1, 0.2, 0.3, 0.4),))
    with Image.open(io.BytesIO(files.card_picture(run))) as drawn:
        assert drawn.format == "PNG" and drawn.width >= 1200


def test_no_download_fills_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "free_space", lambda folder: files.DISK_SHARE * 10)
    assert Path(files.write_file("small", b"x" * 10)).read_bytes() == b"x" * 10
    for data, size in ((b"x" * 11, 0), (b"", 11)):
        with pytest.raises(RequestError, match="disk is too full"):
            files.write_file("large", data, size)


def test_downloads_keep_to_their_folder(tmp_path: Path) -> None:
    path = Path(files.write_file("../../etc/passwd\n", b"x"))
    assert path.read_bytes() == b"x" and path.name == "..-..-etc-passwd-"
    assert path.parent.parent.name.startswith("vlcompare-")
    os.utime(path.parent, (1, 1))
    (path.parents[1] / "gone").symlink_to("nowhere")  # like a folder that another request has just removed
    files.write_file("next", b"y")
    assert not path.exists()
    (path.parents[1] / "gone").unlink()
    assert files.write_file("r" * 300 + ".json", b"{}").endswith("r.json")


def test_downloads_go_with_the_server(tmp_path: Path) -> None:
    made = "from vlcompare.ui.compare.files import write_file; print(write_file('picture.png', b'x'))"
    done = subprocess.run([sys.executable, "-c", made], env={**os.environ, "TMPDIR": str(tmp_path)}, check=True,
                          capture_output=True, text=True)  # fmt: skip
    assert Path(done.stdout.strip()).is_relative_to(tmp_path) and not list(tmp_path.iterdir())


def test_votes_need_consent_and_keep_no_picture(tmp_path: Path) -> None:
    votes = Votes(tmp_path / "data", Limits(note_characters=20))
    run = run_of(answer(text="=SUM(A1)"), request=Request("chat", "hello"))
    with pytest.raises(RequestError, match="agree"):
        votes.add(run, "left", consent=False)
    assert not votes.path.exists() and votes.count() == 0
    votes.add(run, "left", "good", consent=True)
    votes.add(run, "tie", "", consent=True)  # a second thought replaces the first
    votes.add(run_of(), "both_bad", consent=True)
    assert votes.count() == 2
    for choice, note, said in (("best", "", "one of"), ("left", "x" * 30, "at most 20")):
        with pytest.raises(RequestError, match=said):
            votes.add(run, choice, note, consent=True)
    rows = list(csv.DictReader(io.StringIO(votes.export({run.id}))))
    assert len(rows) == 1 and rows[0]["choice"] == "tie" and rows[0]["left_text"] == "'=SUM(A1)"
    assert tuple(rows[0]) == COLUMNS and len(list(csv.reader(io.StringIO(votes.export())))) == 3
    with sqlite3.connect(votes.path) as database:
        assert all(not isinstance(cell, bytes) for row in database.execute("SELECT * FROM votes") for cell in row)


def test_votes_are_the_users_alone(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o755)
    (folder / "votes.sqlite").touch(mode=0o644)
    Votes(folder).add(run_of(), "left", consent=True)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in folder.iterdir())


def test_a_damaged_store_of_votes_gets_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "votes.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(RequestError, match="votes.sqlite"):
        Votes(tmp_path).add(run_of(), "left", consent=True)


def test_a_folder_that_takes_no_votes_gets_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way of a folder")
    (tmp_path / "data" / "votes.sqlite").mkdir(parents=True)
    for folder in (tmp_path / "file", tmp_path / "data"):
        with pytest.raises(RequestError, match="cannot be read or written"):
            Votes(folder).add(run_of(), "left", consent=True)


def test_votes_are_published_and_a_failure_there_is_not_the_voters(tmp_path: Path, capsys: Any) -> None:
    import threading

    seen, gone = [], threading.Event()

    def publish(row: dict[str, Any]) -> None:
        seen.append(row)
        gone.set()
        raise RuntimeError("no network")

    votes = Votes(tmp_path, publish=publish)
    votes.add(run_of(), "left", consent=True)
    assert gone.wait(60) and seen[0]["choice"] == "left" and votes.count() == 1


def test_links_bring_the_settings_back() -> None:
    settings = AppSettings()
    sides = {
        "left": Side("a/b", "nf4", "instruction_first", 224, "cpu", "auto", 30, 0.5, 0.9, 5, 7),
        "right": shown_side(Side(settings.right)),
    }
    link = permalink.Link(AskForm("vqa", "what is & this?", mode="race"), sides, "find")
    query = dict(parse_qsl(permalink.write(link, settings)[1:]))
    assert permalink.read(query, settings) == link
    assert permalink.write(permalink.read({}, settings), settings) == "?"


def test_numbers_that_are_left_to_the_model_are_not_in_the_link() -> None:
    """gradio's number fields turn "nothing" into 0 when they are shown."""
    settings = AppSettings()
    for nothing in (None, 0, ""):
        side = replace(permalink.default_sides(settings)["left"], image_size=nothing, max_new_tokens=nothing)
        assert permalink.write(permalink.Link(sides={"left": side}), settings) == "?"
    old = permalink.read({"left.image_size": "0", "left.max_new_tokens": "0", "left.top_p": "0"}, settings)
    assert (old.sides["left"].image_size, old.sides["left"].max_new_tokens, old.sides["left"].top_p) == (None, None, 0)
    assert permalink.write(old, settings) == "?left.top_p=0"


def test_a_link_asks_its_own_question_about_its_example(tmp_path: Path) -> None:
    example = examples.load_examples(write_examples(tmp_path))[0]
    settings = AppSettings()
    for asked in (AskForm("captioning"), AskForm("grounding", "the disc", mode="race"), AskForm("vqa", "What?")):
        query = dict(parse_qsl(permalink.write(permalink.Link(asked, {}, example.id), settings)[1:]))
        assert question(permalink.read(query, settings).ask, example) == asked
    assert question(AskForm(mode="race"), example) == AskForm("grounding", example.text, mode="race")
    assert question(AskForm(), None) == AskForm()


@pytest.mark.parametrize(
    "query",
    [
        {"task": "juggling", "mode": "x"},
        {"left.quantization": "int1", "right.seed": "nan", "left.top_k": "many", "left.image_size": "1e99"},
        {"text": "", "unknown": "x", "__theme": "dark"},
    ],
)
def test_links_are_read_totally(query: dict[str, str]) -> None:
    settings = AppSettings(offered=("tiny-pythia-vl",))
    assert permalink.read(query, settings) == permalink.read({}, settings)
    assert permalink.read({"left": "x/y"}, settings).sides["left"].checkpoint == settings.left


def test_long_texts_are_left_out_of_a_link() -> None:
    settings = AppSettings()
    link = permalink.Link(AskForm("vqa", "x" * 9000), permalink.default_sides(settings), "find")
    written = permalink.write(link, settings)
    assert len(written) < 4100 and "example=find" in written and "xxx" not in written


@pytest.mark.parametrize(
    ("text", "count"), [("6GB", 6 * 10**9), ("800 mb", 8 * 10**8), ("5e9", 5 * 10**9), ("2.5G", 25 * 10**8)]
)
def test_amounts_of_memory(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "lots", "nan"])
def test_amounts_that_are_none(text: str) -> None:
    with pytest.raises(RequestError):
        parse_bytes(text)


def test_options_go_before_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {"PORT": "9000", "PRELOAD": "a, b", "MEMORY": "6GB", "DATA": str(tmp_path)}.items():
        monkeypatch.setenv(f"VLCOMPARE_{name}", value)
    settings = settings_of(
        build_parser().parse_args(["serve", "--port", "9001", "--queue", "3", "--max-megabytes", "5"])
    )
    assert (settings.port, settings.preload, settings.budget_bytes, settings.data) == (
        9001,
        ("a", "b"),
        6 * 10**9,
        tmp_path,
    )
    assert (settings.limits.queue, settings.limits.file_bytes, settings.host) == (3, 5 * 2**20, "127.0.0.1")
    assert settings_of(build_parser().parse_args(["serve", "--preload"])).preload == (settings.left, settings.right)


def test_a_host_says_where_the_page_is_served() -> None:
    assert AppSettings.from_environment({"SPACE_ID": "me/space"}).host == "0.0.0.0"
    on_space = {"GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_SERVER_PORT": "7860"}
    settings = AppSettings.from_environment(on_space)
    assert (settings.host, settings.port) == ("0.0.0.0", 7860)
    assert AppSettings.from_environment({**on_space, "VLCOMPARE_PORT": "9000"}).port == 9000
    limits = AppSettings.from_environment({"VLCOMPARE_QUEUE": "5", "VLCOMPARE_MAX_MEGABYTES": "3"}).limits
    assert (limits.queue, limits.file_bytes) == (5, 3 * 2**20)


@pytest.mark.parametrize("option", ["queue", "concurrency", "max-seconds", "max-new-tokens", "max-megabytes"])
def test_limits_of_nothing_are_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args(["serve", f"--{option}", "0"])
    assert "0 is not above 0" in capsys.readouterr().err


def test_an_address_of_another_machine_is_refused_at_once() -> None:
    with pytest.raises(RequestError, match=r"192\.0\.2\.1 is not an address of this machine"):
        serve(AppSettings(host="192.0.2.1"))  # RFC 5737: nobody's
    for name in ("no..name", "a" * 70):  # which the library that looks names up does not even take
        with pytest.raises(RequestError, match="is not an address of this machine"):
            check_address(name)
    for host in ("127.0.0.1", "localhost", "[127.0.0.1]"):  # in brackets, as an address of IPv6 is often given
        check_address(host)


@pytest.mark.parametrize("port", [-1, 0, 99999])
def test_a_port_that_there_is_not(port: int) -> None:
    with pytest.raises(RequestError, match=f"port is {port}; give one"):
        AppSettings.from_environment({}, port=port)


def test_the_page_opens_with_what_may_be_chosen() -> None:
    both = AppSettings.from_environment({"VLCOMPARE_OFFERED": "a/b, c/d, e/f"})
    assert (both.left, both.right) == ("a/b", "c/d")
    own = AppSettings.from_environment({"VLCOMPARE_OFFERED": "a/b c/d", "VLCOMPARE_LEFT": "c/d"}, offered=("c/d",))
    assert (own.left, own.right) == ("c/d", "c/d")
    with pytest.raises(RequestError, match="right checkpoint x/y is not among"):
        AppSettings.from_environment({}, offered=("a/b",), right="x/y")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PORT", "x", "must be a whole number"),
        ("QUEUE", "2.5", "must be a whole number"),
        ("MAX_SECONDS", "x", "must be a number"),
        ("MAX_SECONDS", "nan", "above 0"),
        ("QUEUE", "0", "at least 1"),
        ("MEMORY", "lots", "amount of memory"),
        ("QUANTIZATION", "int2", "none, int8 or nf4"),
    ],
)
def test_a_wrong_variable_is_named(name: str, value: str, said: str) -> None:
    with pytest.raises(RequestError, match=f"VLCOMPARE_{name} .*{said}"):
        AppSettings.from_environment({f"VLCOMPARE_{name}": value})


def test_the_time_of_an_answer_may_be_a_part_of_a_second() -> None:
    assert AppSettings.from_environment({"VLCOMPARE_MAX_SECONDS": "2.5"}).limits.seconds == 2.5


def test_every_option_but_two_is_a_variable() -> None:
    serving = build_parser().parse_args(["serve"]).parser
    flags = {action.option_strings[-1] for action in serving._actions} - {"--help", "--share", "--open"}
    known = {*VARIABLES, *LIMIT_VARIABLES, *SERVER_VARIABLES}
    assert {"VLCOMPARE" + flag[1:].replace("-", "_").upper() for flag in flags} <= known
    assert AppSettings.from_environment({"VLCOMPARE_OFFER": "a/b"}).offered == ("a/b",)


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [
        (["serve", "--right", "tiny-mamb-vl"], {}),
        (["serve", "--offer", "tiny-mamb-vl"], {}),
        (["serve", "--preload", "tiny-mamb-vl"], {}),
        (["serve"], {"VLCOMPARE_LEFT": "tiny-mamb-vl"}),
        (["inspect", str(EXAMPLES / "tiny-pair-on-scenes")], {"VLCOMPARE_LEFT": "tiny-mamb-vl"}),
    ],
)
def test_a_misspelt_checkpoint_is_told_before_anything_starts(
    arguments: list[str],
    variables: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("vlcompare.ui.page.serve", lambda *given, **more: pytest.fail("served"))
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert "did you mean tiny-mamba-vl?" in said.err and said.err.count("\n") == 1 and not said.out


def test_folders_and_hub_ids_are_served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    started: list[AppSettings] = []
    monkeypatch.setattr("vlcompare.ui.page.serve", lambda settings, **more: started.append(settings))
    named = ["own", str(tmp_path / "own"), "./own", "owner/name", "tiny-mamba-vl", "finetuned_mambavl_2.8b"]
    for name in named:
        assert main(["serve", "--left", name, "--preload", name, "--allow-path", str(tmp_path)]) == 0
    assert main(["serve", "--offer", *named]) == 0
    assert [settings.left for settings in started] == [*named, "own"]


def test_every_variable_is_in_the_pages_readme() -> None:
    readme = (Path(__file__).resolve().parents[1] / "vlcompare/ui/README.md").read_text(encoding="utf-8")
    for name in (*VARIABLES, *LIMIT_VARIABLES, *SERVER_VARIABLES, *QUOTA_VARIABLES):
        assert name.startswith("GRADIO") or f"`{name}`" in readme, name
