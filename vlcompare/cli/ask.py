"""`ask`: one model, one picture, one question; the answer as it comes, then what it took."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import TYPE_CHECKING, Any

from vlcompare.cli import options
from vlcompare.types import DECODING_FIELDS

if TYPE_CHECKING:
    from vlcompare.types import Answer, Request


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command's options."""
    parser = options.add_asking(
        subparsers,
        "ask",
        help="ask one model about a picture",
        description="Ask one model about a picture. The answer is printed as it comes, then what it took.",
    )
    options.add_fields(parser.add_argument_group("the answer"), DECODING_FIELDS)
    group = parser.add_argument_group("the model")
    group.add_argument(
        "--checkpoint",
        default="tiny-mamba-vl",
        metavar="C",
        help="a name in checkpoints/, a folder, or a Hub id (default: %(default)s)",
    )
    options.add_fields(group, options.MODEL_OPTIONS)
    options.add_output(parser)
    parser.add_argument(
        "--warm-up", action="store_true", help="ask for a few tokens first, so that the times are those of a warm model"
    )


def run(args: argparse.Namespace) -> int:
    """Ask. Everything that can be refused is refused before the model is loaded."""
    request = options.request_from(args)
    options.check_outputs(args)
    options.check_checkpoint(args.checkpoint)

    from vlcompare.cli.report import answers_table, save_card, write_json
    from vlcompare.evaluate.verdicts import read_truth, verdict
    from vlcompare.render.result_card import CardSide
    from vlcompare.runtime.image import open_image

    truth = read_truth(request, args.truth)

    image = open_image(args.image)

    from vlcompare.runtime.loading.load import load
    from vlcompare.terminal import Progress, wrapped

    model = load(args.checkpoint, **options.given(args, options.MODEL_OPTIONS), progress=Progress())
    notices = model.notices_for(request)
    for notice in notices:
        print(wrapped(f"note: {notice}"), file=sys.stderr)
    if args.warm_up:
        _warm_up(model, args.image, request)
    answer = _print_stream(model, args.image, request, quiet=args.json == "-")
    for notice in model.notices_for(request):  # an accelerator may have failed meanwhile
        if notice not in notices:
            print(wrapped(f"note: {notice}"), file=sys.stderr)
    if answer.error:
        print(f"vlcompare: {answer.error}", file=sys.stderr)
    if args.json:
        write_json(args.json, answer.to_json())
    found = verdict(request, answer, truth=truth[0], references=truth[1])
    if args.json != "-":
        print(f"\n{answers_table({'': answer}, {'': found})}")
        if not args.warm_up:
            print("\nTimes of a first run, with all that is set up on the way; --warm-up leaves that out.")
    if args.save:
        save_card(args.save, image, request, {"left": CardSide(answer, verdict=found)}, truth)
    return 1 if answer.error else 0


def _warm_up(model: Any, image: str, request: Request) -> None:
    from vlcompare.runtime.engine import stream_request

    for _ in stream_request(model, image, dataclasses.replace(request, max_new_tokens=3)):
        pass


def _print_stream(model: Any, image: str, request: Request, *, quiet: bool) -> Answer:
    """Print the text token by token. The picture is opened again by the engine, so that its time is counted."""
    from vlcompare.cli.report import plain
    from vlcompare.runtime.engine import stream_request
    from vlcompare.types import Answer, Step

    answer = Answer()
    for item in stream_request(model, image, request):
        if isinstance(item, Step) and not quiet:
            print(plain(item.text), end="", flush=True)
        elif isinstance(item, Answer):
            answer = item
    if not quiet:
        print()
    return answer
