"""The runner with a fake engine: what it writes, being killed, being resumed, being spread over processes."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import random
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from vlcompare.errors import DeviceMemoryError, RequestError, SampleError
from vlcompare.evaluate import run_files
from vlcompare.evaluate.engine import Engine
from vlcompare.evaluate.prediction_log import RowWriter, scan
from vlcompare.evaluate.processes import Processes
from vlcompare.evaluate.results.run_folder import RunFolder
from vlcompare.evaluate.run import batches, finished, run
from vlcompare.evaluate.settings import RunSettings
from vlcompare.paths import EXAMPLES
from vlcompare.types import Alternative, Answer, Box, Prompt, Sample, Side, Token

PICTURE = Path(__file__).parent / "fixtures" / "readers" / "pictures" / "v7w_1.jpg"
PICTURE_BASE64 = base64.b64encode(PICTURE.read_bytes()).decode()


class FakeModel:
    class config:
        image_size = 112

    revision, quantization, dtype, device, notices = None, "none", "torch.float32", "cpu", ()

    def __init__(self, checkpoint: str) -> None:
        self.checkpoint = checkpoint

    def weights_sha256(self) -> str:
        return hashlib.sha256(self.checkpoint.encode()).hexdigest()


class FakeEngine:
    """Answers from a hash of question and checkpoint, and remembers what it was asked. Stops after `stop_after`."""

    def __init__(self, stop_after: int | None = None, fail_above: int | None = None) -> None:
        self.asked: list[str] = []
        self.loaded: list[str] = []
        self.sizes: list[int] = []
        self.stop_after, self.fail_above = stop_after, fail_above

    def load(self, checkpoint, **options):
        self.loaded.append(checkpoint)
        return FakeModel(checkpoint)

    def generate_batch(self, model, asked, alternatives=0):
        if self.stop_after is not None and len(self.asked) + len(asked) > self.stop_after:
            raise KeyboardInterrupt
        if self.fail_above is not None and len(asked) > self.fail_above:
            raise DeviceMemoryError("The device is full.")
        self.sizes.append(len(asked))
        self.asked += [request.text for _, request in asked]
        return [self.answer(model, request) for _, request in asked]

    @staticmethod
    def answer(model, request) -> Answer:
        dice = random.Random(f"{model.checkpoint}|{request.task}|{request.text}")
        box = Box(0.1, 0.1, 0.5, 0.5) if dice.random() < 0.5 else Box(0.6, 0.6, 0.9, 0.9)
        token = Token(5, "x", -0.5, (Alternative(5, "x", -0.5), Alternative(6, "y", -1.0)))
        text = "[" + ",".join(f"{v:.2f}" for v in box) + "]." if request.task == "grounding" else "red"
        prompt = Prompt(("<image>", request.text), (-200, 7), request.prompt_order)
        boxes = (box,) if request.task == "grounding" else ()
        return Answer(text, boxes, parse="ok", tokens=(token,), prompt=prompt, checkpoint=model.checkpoint)

    def as_engine(self) -> Engine:
        return Engine(self.load, self.generate_batch)


@pytest.fixture
def data(tmp_path):
    """41 rows about 11 pictures, of two tasks, one row broken."""
    (tmp_path / "data").mkdir()
    rows = []
    for i in range(41):
        name = f"p{i // 4}.jpg"
        (tmp_path / "data" / name).write_bytes(PICTURE.read_bytes())
        row = {"id": f"r{i}", "image": name, "text": f"question {i}", "tags": {"size": "small" if i % 2 else "large"}}
        if i % 3:
            rows.append({**row, "task": "grounding", "boxes": [[0.1, 0.1, 0.5, 0.5]]})
        else:
            rows.append({**row, "task": "vqa", "references": ["red"]})
    rows.append({"id": "broken", "image": "none.jpg", "task": "vqa"})
    path = tmp_path / "data" / "samples.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def settings(data, out, **other):
    sides = other.pop("sides", {"left": Side("pythia"), "right": Side("mamba")})
    return RunSettings(str(data), out, sides, progress=False, **{"batch_size": 4, **other})


def answers_in(folder):
    """(side, id, text) of every row, in the file's order."""
    lines = (folder / run_files.PREDICTIONS).read_text().splitlines()
    return [(row["side"], row["id"], row["text"]) for row in map(json.loads, lines)]


ORDER = [(side, f"r{i}") for side in ("left", "right") for i in range(41)]


def test_a_run_writes_all_files_in_order(data, tmp_path):
    out = tmp_path / "run"
    engine = FakeEngine()
    summary = run(settings(data, out), engine.as_engine())
    assert engine.loaded == ["pythia", "mamba"]
    assert [key[:2] for key in answers_in(out)] == ORDER
    assert json.loads((out / "summary.json").read_text()) == summary
    record = run_files.read_run(out)
    assert record["complete"] and finished(out)
    assert record["samples"]["count"] == 41 and record["samples"]["skipped"] == 1
    assert record["sides"]["left"]["checkpoint"] == "pythia" and len(record["sides"]["left"]["weights_sha256"]) == 64
    assert record["sides"]["right"]["seed"] == 0 and record["sides"]["right"]["image_size"] == 112
    assert {"torch", "python", "vlcompare"} <= set(record["sessions"][0]["versions"])
    assert set(summary["sides"]["left"]["tasks"]) == {"vqa", "grounding"}
    assert summary["sides"]["left"]["tasks"]["vqa"]["accuracy"] == 1.0
    pair = summary["paired"]["grounding"]["acc@0.5"]
    assert pair["n"] == 27 and pair["both"] + pair["only_left"] + pair["only_right"] + pair["neither"] == 27


def test_rows_hold_the_answer_and_read_back(data, tmp_path):
    run(settings(data, tmp_path / "run"), FakeEngine().as_engine())
    row = json.loads((tmp_path / "run" / "predictions.jsonl").read_text().splitlines()[1])
    assert {"id", "side", "text", "boxes", "tokens", "prompt", "timings", "memory", "checkpoint"} <= set(row)
    assert row["tokens"] == [{"id": 5, "text": "x", "logprob": -0.5}]
    assert Answer.from_json(row).boxes[0] in (Box(0.1, 0.1, 0.5, 0.5), Box(0.6, 0.6, 0.9, 0.9))


def test_alternatives_only_on_request(data, tmp_path):
    run(settings(data, tmp_path / "run", alternatives=1), FakeEngine().as_engine())
    row = json.loads((tmp_path / "run" / "predictions.jsonl").read_text().splitlines()[0])
    assert row["tokens"][0]["top"] == [{"id": 5, "text": "x", "logprob": -0.5}]


def test_one_side_alone(data, tmp_path):
    summary = run(settings(data, tmp_path / "run", sides={"left": Side("m")}), FakeEngine().as_engine())
    assert set(summary["sides"]) == {"left"} and summary["paired"] == {}


@pytest.mark.parametrize("batch_size", [1, 16])
def test_the_batch_size_changes_nothing(data, tmp_path, batch_size):
    run(settings(data, tmp_path / "a"), FakeEngine().as_engine())
    run(settings(data, tmp_path / "b", batch_size=batch_size), FakeEngine().as_engine())
    assert answers_in(tmp_path / "a") == answers_in(tmp_path / "b")


@pytest.mark.parametrize("seed", range(3))
def test_killed_anywhere_and_resumed_loses_and_repeats_nothing(data, tmp_path, seed):
    dice = random.Random(seed)
    run(settings(data, tmp_path / "whole"), FakeEngine().as_engine())
    out = tmp_path / "run"
    asked: list[str] = []
    torn = 0
    for attempt in range(50):
        engine = FakeEngine(stop_after=dice.randint(0, 30))
        try:
            run(settings(data, out, resume=attempt > 0), engine.as_engine())
            asked += engine.asked
            break
        except KeyboardInterrupt:
            asked += engine.asked
            path = out / "predictions.jsonl"
            if path.exists() and path.stat().st_size and dice.random() < 0.5:
                # the machine dies while a line is being written: its end is missing, so it is asked again
                size = path.stat().st_size
                last = path.read_bytes().rstrip(b"\n").rfind(b"\n") + 1
                with path.open("r+b") as file:
                    file.truncate(dice.randint(last, size - 1))
                torn += 1
    assert answers_in(out) == answers_in(tmp_path / "whole")
    assert len(asked) == 82 + torn
    assert json.loads((out / "summary.json").read_text()) == json.loads(
        (tmp_path / "whole" / "summary.json").read_text()
    )


def test_killed_before_anything_was_written(data, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "samples.jsonl.partial").write_text('{"id": "r0", "ima')
    run(settings(data, out, resume=True), FakeEngine().as_engine())
    assert [key[:2] for key in answers_in(out)] == ORDER


def test_a_finished_run_is_not_asked_again(data, tmp_path):
    run(settings(data, tmp_path / "run"), FakeEngine().as_engine())
    before = (tmp_path / "run" / "predictions.jsonl").read_bytes()
    engine = FakeEngine()
    run(settings(data, tmp_path / "run", resume=True), engine.as_engine())
    assert engine.asked == [] and engine.loaded == []
    assert (tmp_path / "run" / "predictions.jsonl").read_bytes() == before


def test_an_existing_run_is_not_overwritten(data, tmp_path):
    run(settings(data, tmp_path / "run"), FakeEngine().as_engine())
    with pytest.raises(SampleError, match="--resume"):
        run(settings(data, tmp_path / "run"), FakeEngine().as_engine())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("x")
    with pytest.raises(SampleError, match="not empty"):
        run(settings(data, tmp_path / "other"), FakeEngine().as_engine())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sides": {"left": Side("other"), "right": Side("mamba")}}, "sides.left.checkpoint"),
        (
            {"sides": {"left": Side("pythia", quantization="nf4"), "right": Side("mamba")}},
            "quantization",
        ),
        ({"sides": {"left": Side("pythia")}}, "sides.right"),
        ({"sides": {"left": Side("pythia", seed=3), "right": Side("mamba")}}, "seed"),
        ({"declared": {"task": "vqa"}}, "data.task"),
    ],
)
def test_resuming_with_other_settings_is_refused(data, tmp_path, change, named):
    run(settings(data, tmp_path / "run"), FakeEngine().as_engine())
    with pytest.raises(SampleError, match=named):
        run(settings(data, tmp_path / "run", resume=True, **change), FakeEngine().as_engine())


def test_options_that_cannot_be_used_are_refused_at_once(data, tmp_path):
    """Not in the answer of every row."""
    for option in ({"temperature": 9.0}, {"top_p": 0.0}, {"max_new_tokens": 0}, {"prompt_order": "image_last"}):
        sides = {"left": Side("pythia", **option)}
        with pytest.raises(RequestError):
            run(settings(data, tmp_path / "run", sides=sides), FakeEngine().as_engine())
    assert not (tmp_path / "run").exists()


def test_an_aborted_start_leaves_no_folder_behind(data, tmp_path):
    """Neither data that cannot be read, nor a checkpoint that does not exist; what was there before stays."""

    def missing(**spec):
        raise SampleError("There is no such checkpoint.")

    engine = replace(FakeEngine().as_engine(), load=missing)
    row = {"id": "x", "image": PICTURE_BASE64, "task": "vqa", "text": "q", "references": ["a"]}
    broken = tmp_path / "broken.jsonl"
    broken.write_text(json.dumps(row) + "\n" + json.dumps({**row, "task": "pointing"}) + "\n")
    for path in (data, broken):
        with pytest.raises(SampleError, match="no such checkpoint"):
            run(settings(path, tmp_path / "new" / "run"), engine)
        assert not (tmp_path / "new").exists()
    kept = tmp_path / "kept"
    kept.mkdir()
    with pytest.raises(SampleError, match="no such checkpoint"):
        run(settings(broken, kept), engine)
    assert kept.exists() and not list(kept.iterdir())
    with pytest.raises(SampleError, match="ends inside a quoted field that began in line 3"):
        run(settings(_ends_badly(tmp_path), tmp_path / "other"), engine)
    assert not (tmp_path / "other").exists()


def _ends_badly(folder):
    """A table whose first rows have pictures, and whose last one ends inside a quoted field."""
    path = folder / "t.tsv"
    rows = [["index", "image", "question", "answer"], ["1", PICTURE_BASE64, "q", "a"], ["2", PICTURE_BASE64, '"q', "a"]]
    path.write_text("".join("\t".join(row) + "\n" for row in rows))
    return path


def test_a_run_killed_while_it_was_prepared_can_be_resumed(data, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "samples.jsonl").write_text('{"id": "a"}')
    (folder / "run.json.partial").write_text('{"schema_ver')
    run(settings(data, folder, resume=True), FakeEngine().as_engine())
    assert finished(folder) and not (folder / "run.json.partial").exists()


def test_a_run_never_replaces_its_data(data):
    pictures = data.parent / "images"
    pictures.mkdir()
    for picture in data.parent.glob("*.jpg"):
        picture.rename(pictures / picture.name)
    before = data.read_bytes()
    with pytest.raises(SampleError, match="where the data are"):
        run(settings(data, data.parent, declared={"images": pictures}), FakeEngine().as_engine())
    assert data.read_bytes() == before


def test_two_runs_at_once_do_not_write_to_one_folder(data, tmp_path):
    """Nor does the second one, which is refused, disturb the first."""
    engine = FakeEngine()

    def generate(model, asked, **options):
        with pytest.raises(SampleError, match="Another run"):
            run(settings(data, tmp_path / "run", resume=True), FakeEngine().as_engine())
        return engine.generate_batch(model, asked, **options)

    run(settings(data, tmp_path / "run"), Engine(engine.load, generate))
    assert [key[:2] for key in answers_in(tmp_path / "run")] == ORDER and finished(tmp_path / "run")


def test_a_system_that_opens_no_folders_runs_without_a_lock(data, tmp_path, monkeypatch):
    """As Windows, which has no flock either."""
    opened = os.open

    def refusing(path, *rest, **options):
        if Path(path).is_dir():
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, *rest, **options)

    monkeypatch.setattr("vlcompare.evaluate.prediction_log.fcntl", None)
    monkeypatch.setattr(os, "open", refusing)
    run(settings(data, tmp_path / "run"), FakeEngine().as_engine())
    assert finished(tmp_path / "run")


def test_a_disk_that_is_full_is_one_sentence(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("vlcompare.evaluate.prediction_log.os.fsync", full)
    with RowWriter(tmp_path / "p.jsonl") as writer, pytest.raises(SampleError, match="No space left"):
        writer.append([{"side": "left", "id": "a"}])


def test_pictures_of_a_hub_set_that_lie_here_may_be_shown(tmp_path):
    """VSR on the Hub names its pictures; they lie in the folder that is declared."""

    def load(*names, **options):
        return iter([{"image": PICTURE.name, "caption": "A wall.", "label": 1}])

    declared = {"format": "vsr", "split": "test", "images": str(PICTURE.parent), "load_dataset": load}
    run(settings("hub:a/b", tmp_path / "run", declared=declared), FakeEngine().as_engine())
    assert RunFolder.open(tmp_path / "run").picture(0) == PICTURE.resolve()


def test_resuming_with_other_weights_is_refused(data, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(settings(data, tmp_path / "run"), FakeEngine(stop_after=5).as_engine())
    engine = FakeEngine()

    def load(checkpoint, **options):
        model = FakeModel(checkpoint)
        model.weights_sha256 = lambda: "0" * 64
        return model

    with pytest.raises(SampleError, match="weights_sha256"):
        run(settings(data, tmp_path / "run", resume=True), Engine(load, engine.generate_batch))


def test_another_batch_size_may_resume(data, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(settings(data, tmp_path / "run"), FakeEngine(stop_after=30).as_engine())
    run(settings(data, tmp_path / "run", resume=True, batch_size=7), FakeEngine().as_engine())
    assert [key[:2] for key in answers_in(tmp_path / "run")] == ORDER
    assert len(run_files.read_run(tmp_path / "run")["sessions"]) == 1  # sessions that ended


def together(data, out, count, **other):
    """The same run by several processes, each a thread with its own engine."""
    barrier = threading.Barrier(count)
    engines = [FakeEngine(other.pop("stop_after", None)) for _ in range(count)]
    failures: list[BaseException] = []

    def work(rank: int) -> None:
        try:
            run(
                settings(data, out, **other),
                engines[rank].as_engine(),
                Processes(rank, count, rank, lambda: barrier.wait(120)),
            )
        except BaseException as error:
            failures.append(error)
            barrier.abort()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return engines, failures


@pytest.mark.parametrize("count", [3])
def test_several_processes_give_the_same_run(data, tmp_path, count):
    run(settings(data, tmp_path / "one"), FakeEngine().as_engine())
    engines, failures = together(data, tmp_path / "many", count)
    assert not failures
    assert (tmp_path / "many" / "predictions.jsonl").read_bytes() == (
        tmp_path / "one" / "predictions.jsonl"
    ).read_bytes()
    assert (tmp_path / "many" / "summary.json").read_bytes() == (tmp_path / "one" / "summary.json").read_bytes()
    assert not list((tmp_path / "many").glob("predictions.rank-*"))
    assert sum(len(engine.asked) for engine in engines) == 82
    assert max(len(engine.asked) for engine in engines) <= 82 // count + 4  # whole batches of four


def test_a_run_of_two_processes_can_be_resumed_by_one(data, tmp_path):
    run(settings(data, tmp_path / "one"), FakeEngine().as_engine())
    _, failures = together(data, tmp_path / "many", 2, stop_after=12)
    assert failures
    engine = FakeEngine()
    run(settings(data, tmp_path / "many", resume=True), engine.as_engine())
    assert 0 < len(engine.asked) < 82
    assert (tmp_path / "many" / "predictions.jsonl").read_bytes() == (
        tmp_path / "one" / "predictions.jsonl"
    ).read_bytes()


def test_a_batch_that_is_too_large_is_halved(data, tmp_path):
    engine = FakeEngine(fail_above=2)
    run(settings(data, tmp_path / "run", batch_size=8), engine.as_engine())
    assert max(engine.sizes) == 2 and [key[:2] for key in answers_in(tmp_path / "run")] == ORDER


def test_a_sample_that_never_fits_gets_an_answer_that_says_so(data, tmp_path):
    summary = run(settings(data, tmp_path / "run", declared={"limit": 9}), FakeEngine(fail_above=0).as_engine())
    assert sum(task["errors"] for task in summary["sides"]["left"]["report"].values()) == 9
    row = json.loads((tmp_path / "run" / "predictions.jsonl").read_text().splitlines()[0])
    assert "memory" in row["error"]


def test_a_picture_that_vanished_is_an_error_of_its_row(data, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(settings(data, tmp_path / "run"), FakeEngine(stop_after=0).as_engine())
    sample = next(run_files.read_samples(tmp_path / "run"))
    assert isinstance(sample.image, Path) and sample.image.is_file()


def test_pictures_are_linked_or_copied(data, tmp_path):
    run(settings(data, tmp_path / "linked"), FakeEngine().as_engine())
    assert not (tmp_path / "linked" / "images").exists()
    run(settings(data, tmp_path / "copied", copy_images=True), FakeEngine().as_engine())
    copied = list(run_files.read_samples(tmp_path / "copied"))
    assert all(sample.image.parent == tmp_path / "copied" / "images" for sample in copied)
    assert run_files.read_run(tmp_path / "copied")["images_root"] is None
    inline = Path(__file__).parent / "fixtures" / "readers" / "ours.jsonl"
    run(settings(inline, tmp_path / "inline"), FakeEngine().as_engine())
    found = {sample.id: sample.image for sample in run_files.read_samples(tmp_path / "inline")}
    assert found["inline"].parent.name == "images" and found["inline"].read_bytes()[:4] == b"\x89PNG"


def test_a_folder_of_pictures_has_answers_and_no_figures(tmp_path):
    folder = PICTURE.parent
    declared = {"format": "folder", "question": "What is it?", "limit": 3}
    summary = run(settings(folder, tmp_path / "run", declared=declared), FakeEngine().as_engine())
    assert summary["sides"]["left"]["tasks"] == {} and len(answers_in(tmp_path / "run")) == 6


def test_batches_keep_tasks_together_and_lose_nothing():
    samples = [Sample(str(i), None, ("vqa", "grounding")[i % 2]) for i in range(100)]
    made = list(batches(iter(samples), 8))
    assert sorted(s.id for batch in made for s in batch) == sorted(s.id for s in samples)
    assert sum(len({s.task for s in batch}) > 1 for batch in made) <= 1
    assert [s.id for batch in batches(iter(samples), 1) for s in batch] == [s.id for s in samples]


def test_a_torn_line_is_cut_off_before_appending(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_bytes(b'{"side":"left","id":"a"}\n{"side":"left","id":"b"')
    with RowWriter(path) as writer:
        writer.append([{"side": "left", "id": "c"}])
    assert [key for key in scan(path)[0]] == [("left", "a"), ("left", "c")]


def test_nothing_to_evaluate_is_one_sentence(tmp_path):
    (tmp_path / "s.jsonl").write_text("{broken\n")
    with pytest.raises(SampleError, match="not JSON"):
        run(settings(tmp_path / "s.jsonl", tmp_path / "run"), FakeEngine().as_engine())
    assert not (tmp_path / "run" / "run.json").exists()


def test_the_command_gives_each_side_its_options():
    import argparse

    from vlcompare.cli.evaluate import add_parser
    from vlcompare.cli.options import side_of

    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    line = "evaluate d --left x --right y --out o --quantization nf4 --quantization-right none --seed-left 4"
    args = parser.parse_args(line.split())
    assert side_of(args, "left") == Side("x", "nf4", seed=4)
    assert side_of(args, "right") == Side("y", "none")


def test_the_identity_of_a_run_is_what_an_older_run_json_holds():
    """Byte for byte, so that runs begun by any version can be resumed."""
    recorded = json.loads((EXAMPLES / "tiny-pair-on-scenes" / "run.json").read_text())["identity"]["sides"]
    sides = {name: Side(**values) for name, values in recorded.items()}
    assert json.dumps(RunSettings("data", Path("out"), sides).identity()["sides"]) == json.dumps(recorded)
