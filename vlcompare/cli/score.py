"""`score SAMPLES PREDICTIONS`: the figures of answers made anywhere. The work is in `evaluate.score_files`."""

from __future__ import annotations

import argparse
from pathlib import Path

from vlcompare.cli.options import above_zero, add_json, check_outputs
from vlcompare.errors import RequestError
from vlcompare.paths import existing


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from vlcompare.evaluate.exchange.box_units import FORMATS, ORIGINAL, SCALES

    parser = subparsers.add_parser(
        "score",
        help="score answers made anywhere against a data set",
        description="Score answers against samples. PREDICTIONS holds one JSON object a line: id, text, and if wanted "
        "boxes ([[x0, y0, x1, y1]] in 0..1) and side; or it is a file of lmms-eval (samples_*.jsonl), LLaVA or "
        "VLMEvalKit (TSV, XLSX), or a result file of VQA, GQA, DocVQA, COCO captions or POPE. A sample without an "
        "answer counts as wrong; where no answer belongs to a sample, the exit status is 2.",
    )
    parser.add_argument("samples", type=existing, help="samples, in any format that `evaluate` reads")
    parser.add_argument(
        "predictions", type=existing, help="predictions.jsonl, or a file of answers from another program"
    )
    add_json(parser, "the figures")
    parser.add_argument("--side", help="score this side of the predictions alone")
    group = parser.add_argument_group("predicted boxes")
    group.add_argument(
        "--answer-box-scale",
        choices=SCALES,
        default="auto",
        help="what their coordinates are in: unit (0..1), percent, thousand, or pixel; auto (default) reads them as "
        "unit and warns where most are above 1",
    )
    group.add_argument(
        "--answer-box-format",
        choices=FORMATS,
        default="auto",
        help="what their four numbers are: xyxy (two corners), xywh, or yxyx; auto (default) reads them as xyxy and "
        "warns where many end before they begin",
    )
    group.add_argument(
        "--answer-box-size",
        default=ORIGINAL,
        metavar="S",
        help="pixels of what: original (default), or of a model's input, as a side (448) or WIDTHxHEIGHT",
    )
    add_submission_option(parser)
    parser.add_argument(
        "--submission-file",
        metavar="FILE",
        help="where (default: FORMAT-submission.json here, .xlsx for vlmevalkit); of several sides each has its own, "
        "with -SIDE in its name",
    )
    add_reading_options(parser)
    parser.set_defaults(need_pictures=False)


def add_submission_option(parser: argparse.ArgumentParser) -> None:
    """Which server's result file to write; shared with `evaluate`."""
    from vlcompare.evaluate.exchange.submission import SUBMISSIONS

    parser.add_argument(
        "--submission",
        choices=SUBMISSIONS,
        help="write the answers as this benchmark's server takes them, too; also of sets without right answers",
    )


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """What is declared about a data set; shared with `evaluate`."""
    from vlcompare.evaluate.readers import AUTO, FORMATS, HUB
    from vlcompare.evaluate.readers.source import BOX_FORMATS, BOX_SCALES
    from vlcompare.types import TASKS

    group = parser.add_argument_group("the data set")
    group.add_argument(
        "--format",
        default=AUTO,
        choices=[AUTO, *(name for name in FORMATS if name != HUB)],
        metavar="F",
        help="auto (default: by the keys that are found), or " + ", ".join(name for name in FORMATS if name != HUB),
    )
    group.add_argument(
        "--task", choices=TASKS, metavar="TASK", help="only this task; for formats that name none, what the rows are"
    )
    group.add_argument("--limit", type=above_zero(int), metavar="N", help="only the first samples")
    group.add_argument(
        "--images", help="folder of the pictures (default: beside the file), or a parquet file of them by id"
    )
    group.add_argument(
        "--annotations", help="the file that goes with the first: VQA's answers, refer's instances, TextVQA's OCR"
    )
    group.add_argument("--question", help="a folder of pictures: what to ask about each")
    group.add_argument("--box-format", choices=BOX_FORMATS, help="of a foreign file's boxes; never guessed")
    group.add_argument("--box-scale", choices=BOX_SCALES, help="of a foreign file's boxes; never guessed")
    group.add_argument("--source", help="the benchmark's name, where rows name none (selects its prompt and scoring)")
    group.add_argument("--split", help="read this split alone (several: test+val); of rows that have none, its name")
    group.add_argument("--config", help="of a Hub data set: which part")
    group.add_argument(
        "--unbalanced",
        dest="balanced",
        action="store_false",
        default=None,
        help="GQA: count the unbalanced questions, too (its figures are of the balanced ones)",
    )


def run(args: argparse.Namespace) -> int:
    from vlcompare.cli.report import write_json
    from vlcompare.evaluate.exchange.submission import SUBMISSIONS
    from vlcompare.evaluate.score_files import score_files
    from vlcompare.evaluate.summary_text import figures_as_text

    check_outputs(args)
    if args.submission_file and not args.submission:
        raise RequestError("--submission-file says where, and --submission FORMAT what is written: give that as well.")
    submit = None
    if args.submission:
        suffix = SUBMISSIONS[args.submission].suffix
        submit = args.submission, Path(args.submission_file or f"{args.submission}-submission{suffix}")
    result = score_files(
        args.samples,
        args.predictions,
        side=args.side,
        answer_box_scale=args.answer_box_scale,
        answer_box_format=args.answer_box_format,
        answer_box_size=args.answer_box_size,
        submit=submit,
        **reading_options(args),
    )
    if args.json:
        write_json(args.json, result)
    if args.json != "-":
        print(figures_as_text(result))
    return 0


def reading_options(args: argparse.Namespace) -> dict[str, object]:
    """The declared options as `open_samples` takes them."""
    names: tuple[str, ...] = ("format", "task", "limit", "images", "annotations", "question", "box_format", "box_scale")
    names += ("source", "split", "config", "balanced", "need_pictures")
    return {name: getattr(args, name) for name in names if getattr(args, name, None) is not None}
