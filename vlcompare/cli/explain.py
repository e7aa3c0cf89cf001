"""`explain`: on which part of a picture each model's answer rests, as a map, its figures and a picture."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from vlcompare import terminal
from vlcompare.cli import options
from vlcompare.errors import RequestError, VLCompareError, reason
from vlcompare.evidence import BLANKS
from vlcompare.paths import EMBEDDED
from vlcompare.types import DECODING_FIELDS, SIDES

if TYPE_CHECKING:
    from vlcompare.evidence import EvidenceMap
    from vlcompare.types import Box, Request, Side


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command's options."""
    parser = options.add_asking(
        subparsers,
        "explain",
        help="on which part of a picture an answer rests",
        description="Blank one part of the picture at a time and measure how far the log-probability of the answer "
        "falls: each model's own answer, or the one given with --answer.",
    )
    group = parser.add_argument_group("the map")
    group.add_argument("--answer", metavar="TEXT", help="explain this answer instead of each model's own")
    group.add_argument(
        "--blank", choices=BLANKS, default="mean", help="a block becomes the picture's mean patch (default) or blurred"
    )
    group.add_argument("--block", type=int, metavar="K", help="patches a side that are blanked together")
    sides = parser.add_argument_group("the sides")
    options.add_sides(sides)
    sides.add_argument("--checkpoint", metavar="C", help="only this model, in place of the two sides")
    parser.set_defaults(**dict.fromkeys(SIDES))  # as without an option, so that one beside --checkpoint is seen
    answers = parser.add_argument_group("the answers (each also with -left or -right)")
    options.add_fields(answers, DECODING_FIELDS, SIDES)
    models = parser.add_argument_group("the models (each also with -left or -right)")
    options.add_fields(models, options.MODEL_OPTIONS, SIDES)
    group = parser.add_argument_group("output")
    options.add_json(group, "maps and figures")
    group.add_argument("--save", metavar="F.png", help="write the picture with both maps on one scale")


def run(args: argparse.Namespace) -> int:
    """Explain. Exit status 1 when a side failed; the other side's map is printed and saved all the same."""
    request = options.request_from(args)
    options.check_outputs(args)
    if args.block is not None and args.block < 1:
        raise RequestError(f"--block is 1 or more, not {args.block}.")
    if args.answer is not None and not args.answer.strip():
        raise RequestError("--answer is empty: give the text of an answer, or leave it out.")
    sides = _sides(args)

    from vlcompare.cli.report import plain, write_json
    from vlcompare.evaluate.verdicts import read_truth
    from vlcompare.render.evidence_picture import evidence_picture, figures_in_words, place_in
    from vlcompare.runtime.image import open_image

    truth, _ = read_truth(request, args.truth)
    place = place_in(request, truth)
    image = open_image(args.image)
    maps: dict[Any, EvidenceMap] = {}
    for name, side in sides.items():
        try:
            maps[name] = found = _explain(args, side, image, side.request(request))
        except VLCompareError as error:
            print(terminal.wrapped(f"{name}: {error}"), file=sys.stderr)
            continue
        if args.json != "-":
            print(f"{name}  {found.checkpoint}: {plain(found.answer)}")
            for sentence in figures_in_words(found, place):
                print(terminal.wrapped(f"  {sentence}", "  "))
    if args.json:
        write_json(args.json, {"sides": {name: _as_json(found, place.boxes) for name, found in maps.items()}})
    if args.save and maps:
        try:
            evidence_picture(image, request, maps, truth).save(args.save)
        except OSError as error:
            raise RequestError(f"{args.save} cannot be written ({reason(error)}).") from error
        print(f"The maps are in {args.save}.", file=sys.stderr)
    return 0 if len(maps) == len(sides) else 1


def _sides(args: argparse.Namespace) -> dict[str, Side]:
    """The two sides, or the one model of --checkpoint. Raises RequestError for options that would do nothing."""
    if args.checkpoint is not None:
        for side in SIDES:
            if getattr(args, side) is not None:
                raise RequestError(f"--checkpoint takes the place of the two sides: leave it out, or --{side}.")
        options.refuse_own(args, options.FIELD_OPTIONS, "right", "leave it out, or --checkpoint")
        args.left = args.checkpoint
    else:
        args.left, args.right = args.left or EMBEDDED[0], args.right or EMBEDDED[1]
    options.check_checkpoint(args.left, args.right)
    return {side: options.side_of(args, side) for side in SIDES if getattr(args, side)}


def _explain(args: argparse.Namespace, side: Side, image: Any, request: Request) -> EvidenceMap:
    """Load one side's model, and its map; on a terminal, with a line that counts the blocks."""
    from vlcompare.runtime.blanking import explain_request
    from vlcompare.runtime.loading.load import load

    model = load(**asdict(side.model), progress=terminal.Progress())
    for notice in model.notices_for(request):
        print(terminal.wrapped(f"note: {notice}"), file=sys.stderr)

    def count(done: int, of: int) -> None:
        terminal.status(f"{done} of {of} blocks")

    return explain_request(model, image, request, args.answer, blank=args.blank, block=args.block, progress=count)


def _as_json(found: EvidenceMap, place: tuple[Box, ...]) -> dict[str, Any]:
    return {"checkpoint": found.checkpoint, "answer": found.answer, "boxes": found.boxes, **found.to_json(place)}
