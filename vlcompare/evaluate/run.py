"""The runner: samples in, a run folder out. Can be killed at any point and resumed; can be spread over processes.

One side after the other, so that one model is in memory at a time; features that an encoder has made of the pictures
serve the next side, where that has an equal one. Rows are appended batch by batch and put into the samples' order at
the end.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vlcompare.errors import DeviceMemoryError, SampleError, VLCompareError, reason
from vlcompare.evaluate import run_files
from vlcompare.evaluate.engine import Engine, Generate, release
from vlcompare.evaluate.evidence import chosen, evidence_of
from vlcompare.evaluate.prediction_log import RowWriter, held, merge, write_json
from vlcompare.evaluate.predictions import Key
from vlcompare.evaluate.processes import Processes, current
from vlcompare.evaluate.readers import AUTO, HUB, SampleStream, open_samples
from vlcompare.evaluate.readers.pictures import tree_of
from vlcompare.evaluate.replies import request_of
from vlcompare.evaluate.results import origin
from vlcompare.evaluate.settings import RUN_VERSION, RunSettings, check_same, versions
from vlcompare.tasks.prompts import check_decoding
from vlcompare.terminal import progress_bar
from vlcompare.types import Answer, Request, Sample, Side

NEEDED = ("identity", "samples", "sides", "sessions")  # of run.json, to go on with a run
WINDOW = 16  # batches' worth of samples that are sorted by task, so that a batch stops together


def run(settings: RunSettings, engine: Engine | None = None, processes: Processes | None = None) -> dict[str, Any]:
    """Do a run, or the rest of one; returns the summary, which is also in the folder.

    Raises SampleError where the data cannot be read, the folder holds another run, is being written by one, or exists
    and was not resumed; RequestError where a side's options cannot be used.
    """
    for side in settings.sides.values():
        check_decoding(side.decoding)
    processes = processes or current(settings.device)
    with held(settings.out) if processes.main else nullcontext():
        before = run_files.contents(settings.out)
        try:
            return _run(settings, engine, processes)
        except VLCompareError:  # such as a checkpoint that does not exist: nothing was answered, so nothing stays
            if processes.main and not before and not run_files.answered(settings.out):
                run_files.discard(settings.out)
                for part in run_files.parts(settings.out):
                    part.unlink(missing_ok=True)
            raise


def _run(settings: RunSettings, engine: Engine | None, processes: Processes) -> dict[str, Any]:
    folder = settings.out
    if processes.main:
        _prepare(settings)
    processes.wait()
    record = run_files.read_run(folder, NEEDED)
    done = frozenset(run_files.answered(folder))
    processes.wait()  # no process writes before all have read what is there
    count = record["samples"]["count"]
    _explained(settings)  # refused before a model is loaded
    engine = engine or Engine.real(several=len(settings.sides) > 1)
    session = {"started": _now(), "processes": processes.count, "batch_size": settings.batch_size, **_machine(settings)}
    for turn, (side, options) in enumerate(settings.sides.items()):
        pending = sum((side, sample.id) not in done for sample in run_files.read_samples(folder))
        if pending:
            share = Share(settings, side, done, (processes.rank + turn) % processes.count, processes.count)
            _answer_side(settings, side, options, share, engine, processes)
    processes.wait()
    return _finish(settings, session, count) if processes.main else {}


# ---- before ----------------------------------------------------------------------------------------------------------


def _prepare(settings: RunSettings) -> None:
    """Make the folder, its samples and run.json; or check that it is the same run's."""
    folder = settings.out
    if (folder / run_files.RUN).exists():
        if not settings.resume:
            raise SampleError(f"{folder} already holds a run: go on with --resume, or give another --out.")
        recorded, wanted = run_files.read_run(folder, NEEDED)["identity"], settings.identity()
        if wanted["data"].get("format") == AUTO:  # what was found then holds
            wanted["data"]["format"] = recorded["data"].get("format")
        check_same(recorded, wanted, folder)
        return
    begun = {run_files.SAMPLES, run_files.IMAGES, f"{run_files.SAMPLES}.partial", f"{run_files.RUN}.partial"}
    if {path.name for path in folder.iterdir()} - begun:  # other files than those of a run that was killed
        raise SampleError(f"{folder} is not empty and holds no run: give an empty or a new folder with --out.")
    if Path(settings.data).resolve() == (folder / run_files.SAMPLES).resolve():
        raise SampleError(f"{folder} is where the data are, which the run's own would replace: give another --out.")
    stream = _samples(settings)
    try:
        described = run_files.write_samples(folder, stream, copy_images=settings.copy_images)
    except OSError as error:
        raise SampleError(f"{folder} cannot be written: {error.strerror or error}.") from error
    root = stream.source.images if stream.format == HUB else stream.source.image_root
    images_root = None if settings.copy_images or root is None else str(tree_of(root))
    identity = settings.identity()
    if identity["data"].get("format") == AUTO:
        identity["data"]["format"] = stream.rows or stream.format
    write_json(
        folder / run_files.RUN,
        {
            "schema_version": RUN_VERSION,
            "identity": identity,
            "samples": described,
            "images_root": images_root,
            "images_proof": origin.proof(images_root, described["sha256"]),
            "sides": {},
            "sessions": [],
            "complete": False,
        },
    )


def _samples(settings: RunSettings) -> SampleStream:
    return open_samples(settings.data, **settings.declared)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _machine(settings: RunSettings) -> dict[str, Any]:
    return {"device": settings.device, "versions": versions()}


# ---- answering -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Share:
    """One process's part of one side: every `count`-th batch of the whole data set, less what is answered.

    Batches are made of all samples, answered or not, so that a row is asked beside the same rows however often the run
    was stopped and however many processes there are: its answer is then the same to the last digit.
    """

    settings: RunSettings
    side: str
    done: frozenset[Key]
    number: int
    count: int

    def __iter__(self) -> Iterator[list[Sample]]:
        made = batches(run_files.read_samples(self.settings.out), self.settings.batch_size)
        for batch in itertools.islice(made, self.number, None, self.count):
            if pending := [sample for sample in batch if (self.side, sample.id) not in self.done]:
                yield pending


def _answer_side(
    settings: RunSettings, side: str, options: Side, share: Share, engine: Engine, processes: Processes
) -> None:
    """Load one side's model and answer this process's share of what is pending."""
    total = sum(map(len, share))
    if not total and not processes.main:
        return
    model = engine.load(**asdict(replace(options.model, device=processes.device(settings.device))))
    try:
        if processes.main:
            _record_side(settings, side, options, model)
        kept = engine.keep(run_files.asked_again(settings.out))
        generate = functools.partial(engine.generate_batch, **kept)
        explained = _explained(settings)
        shown = settings.progress and processes.main
        label = side if processes.count == 1 else f"{side}, process 1 of {processes.count}"
        with (
            RowWriter(run_files.part_of(settings.out, processes.rank, processes.count)) as writer,
            progress_bar(total, label, " samples", shown=shown) as bar,
        ):
            for batch in share:
                answers = _answer(generate, model, batch, options, settings.alternatives)
                rows = [
                    _row(sample, side, answer, settings.alternatives)
                    for sample, answer in zip(batch, answers, strict=True)
                ]
                for row, sample, answer in zip(rows, batch, answers, strict=True):
                    if sample.id in explained and engine.explain:
                        explain = functools.partial(engine.explain, **kept)
                        row["evidence_map"] = evidence_of(explain, model, sample, options, answer)
                writer.append(rows)
                bar.update(len(batch))
    finally:
        del model
        release()


def _explained(settings: RunSettings) -> frozenset[str]:
    """Ids of the samples whose answers get a map of what they rest on."""
    if not settings.evidence:
        return frozenset()
    return chosen(run_files.read_samples(settings.out), settings.evidence, settings.evidence_seed)


def batches(samples: Iterator[Sample], size: int) -> Iterator[list[Sample]]:
    """Batches of samples of like tasks. A batch decodes until its longest answer ends, so tasks are kept together."""
    while window := list(itertools.islice(samples, size * WINDOW if size > 1 else 1)):
        window.sort(key=lambda sample: sample.task)
        for start in range(0, len(window), size):
            yield window[start : start + size]


def _answer(generate: Generate, model: Any, batch: Sequence[Sample], options: Side, alternatives: int) -> list[Answer]:
    """Answers of one batch, in its order. A batch that needs too much memory is halved; a row that cannot be asked
    gets an answer that says why."""
    answers: dict[int, Answer] = {}
    asked: list[tuple[int, Any, Request]] = []
    for index, sample in enumerate(batch):
        try:
            image = sample.image() if callable(sample.image) else sample.image
            asked.append((index, image, options.request(request_of(sample))))
        except (OSError, ValueError) as error:
            answers[index] = Answer(stop_reason="error", error=f"The picture cannot be read: {reason(error)}.")
    if asked:
        given = _generate(generate, model, [(image, request) for _, image, request in asked], alternatives)
        answers.update((index, answer) for (index, _, _), answer in zip(asked, given, strict=True))
    return [answers[index] for index in range(len(batch))]


def _generate(generate: Generate, model: Any, asked: Sequence[tuple[Any, Request]], alternatives: int) -> list[Answer]:
    try:
        return generate(model, list(asked), alternatives=max(1, alternatives))
    except (DeviceMemoryError, MemoryError, RuntimeError) as error:
        if not _is_memory(error):
            raise
        failure = str(error)
    release()
    if len(asked) == 1:
        return [Answer(stop_reason="error", error=f"Too little memory for this sample: {failure[:200]}")]
    middle = len(asked) // 2
    halves = asked[:middle], asked[middle:]
    return [answer for half in halves for answer in _generate(generate, model, half, alternatives)]


def _is_memory(error: BaseException) -> bool:
    return isinstance(error, (DeviceMemoryError, MemoryError)) or "out of memory" in str(error).lower()


def _row(sample: Sample, side: str, answer: Answer, alternatives: int) -> dict[str, Any]:
    """A line of predictions.jsonl: the sample's id, the side, and the answer; alternatives only as far as asked."""
    fields = answer.to_json()
    for token in fields["tokens"]:
        if alternatives:
            token["top"] = token["top"][:alternatives]
        else:
            del token["top"]
    return {"id": sample.id, "side": side, **fields}


def _record_side(settings: RunSettings, side: str, options: Side, model: Any) -> None:
    """Put what the side's model turned out to be into run.json; refuse to go on with other weights."""
    record = run_files.read_run(settings.out)
    loaded = {
        "checkpoint": getattr(model, "checkpoint", options.checkpoint),
        "revision": getattr(model, "revision", None),
        "weights_sha256": model.weights_sha256(),
        "quantization": getattr(model, "quantization", options.quantization),
        "dtype": str(getattr(model, "dtype", options.dtype)).removeprefix("torch."),
        "image_size": model.config.image_size,
    }
    before = record["sides"].get(side)
    if before is not None:
        check_same({side: {key: before.get(key) for key in loaded}}, {side: loaded}, settings.out)
    record["sides"][side] = {
        **loaded,
        **asdict(options.decoding),
        "device": str(getattr(model, "device", settings.device)),
        "notices": list(getattr(model, "notices", ())),
    }
    write_json(settings.out / run_files.RUN, record)


# ---- after -----------------------------------------------------------------------------------------------------------


def _finish(settings: RunSettings, session: dict[str, Any], count: int) -> dict[str, Any]:
    """Merge the parts in the samples' order, write the figures, and mark the run complete."""
    from vlcompare.evaluate.score_files import summarise_run

    folder = settings.out
    order = [(side, sample.id) for side in settings.sides for sample in run_files.read_samples(folder)]
    answered = merge(run_files.parts(folder), order, folder / run_files.PREDICTIONS)
    record = run_files.read_run(folder, NEEDED)
    record["sessions"].append({**session, "ended": _now()})
    record["complete"] = answered == count * len(settings.sides)
    write_json(folder / run_files.RUN, record)
    summary = summarise_run(folder)
    write_json(folder / run_files.SUMMARY, summary)
    return summary


def finished(folder: Path) -> bool:
    """Whether a run folder holds every answer."""
    try:
        return bool(run_files.read_run(folder).get("complete"))
    except VLCompareError:
        return False
