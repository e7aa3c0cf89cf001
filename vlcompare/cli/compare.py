"""`compare`: both sides on one picture and question; answers as they come, then a table.

In "measure" one side answers after the other, and each token is printed as it comes. In "race" both answer at once, and
each answer is printed when it is finished, since two streams on one line could not be distinguished.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from vlcompare import terminal
from vlcompare.cli import options
from vlcompare.errors import RequestError
from vlcompare.types import DECODING_FIELDS, SIDES

if TYPE_CHECKING:
    from vlcompare.comparison import Event
    from vlcompare.repeats import Repeats
    from vlcompare.types import Answer, Side


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command's options."""
    parser = options.add_asking(
        subparsers,
        "compare",
        help="ask two models the same about a picture, side by side",
        description="Ask two models the same about a picture. Both answers are printed, then what each token cost.",
    )
    sides = parser.add_argument_group("the sides")
    options.add_sides(sides)
    sides.add_argument(
        "--race", action="store_true", help="run both at once: a show, the times are contended (default: one by one)"
    )
    sides.add_argument(
        "--repeat",
        type=options.above_zero(int),
        metavar="N",
        help="run the comparison N times, 2 to 50, the first side in turn: medians and ranges",
    )
    answers = parser.add_argument_group("the answers (each also with -left or -right)")
    options.add_fields(answers, DECODING_FIELDS, SIDES)
    models = parser.add_argument_group("the models (each also with -left or -right)")
    options.add_fields(models, options.MODEL_OPTIONS, SIDES)
    options.add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Compare. Exit status 1 when a side failed; the other side's answer is printed and saved all the same."""
    from vlcompare.repeats import MAX_ROUNDS

    if args.repeat is not None and args.race:
        raise RequestError("--race runs both sides at once, so its times are not figures to repeat: leave one out.")
    if args.repeat is not None and not 2 <= args.repeat <= MAX_ROUNDS:
        raise RequestError(f"--repeat is 2 to {MAX_ROUNDS}, not {args.repeat}.")
    request = options.request_from(args)
    options.check_outputs(args)
    options.check_checkpoint(args.left, args.right)
    sides = {name: options.side_of(args, name) for name in SIDES}

    from vlcompare.cli.report import answers_table, repeats_table, save_card, write_json
    from vlcompare.comparison import compare
    from vlcompare.evaluate.verdicts import read_truth, verdict
    from vlcompare.render.result_card import CardSide
    from vlcompare.repeats import repeat
    from vlcompare.runtime.image import open_image

    truth = read_truth(request, args.truth)
    image = open_image(args.image)
    quiet, repeats = args.json == "-", None
    if args.repeat is None:
        events = compare(args.image, request, sides, mode="race" if args.race else "measure")
        answers = _print_events(events, sides, quiet=quiet, live=not args.race)
    else:
        items = repeat(args.image, request, sides, count=args.repeat)
        answers = _print_events(_one_round(items), sides, quiet=quiet, live=True)
        repeats = _further_rounds(items) if all(not answer.error for answer in answers.values()) else None
    if args.json:
        data = {"sides": {name: answer.to_json() for name, answer in answers.items()}}
        write_json(args.json, data | ({"repeats": repeats.to_json()} if repeats else {}))
    found = {side: verdict(request, answer, truth=truth[0], references=truth[1]) for side, answer in answers.items()}
    if not quiet:
        print(f"\n{answers_table(answers, found, 'round 1' if repeats else '')}")
        if repeats:
            print(f"\n{repeats_table(repeats)}")
        if args.race:
            print("\nBoth ran at once: these times are contended. Leave out --race for figures.")
    if args.save:
        cards = {side: CardSide(answer, verdict=found[side]) for side, answer in answers.items()}
        save_card(args.save, image, request, cards, truth)
    return 1 if any(answer.error for answer in answers.values()) else 0


def _print_events(events: Iterable[Event], sides: dict[str, Side], *, quiet: bool, live: bool) -> dict[str, Answer]:
    from vlcompare.cli.report import plain
    from vlcompare.types import Answer, Step

    answers: dict[str, Answer] = {}
    printing = ""  # the side whose tokens are on the unfinished line
    for side, kind, value in events:
        if isinstance(value, Answer):
            answers[side] = value
            if printing and value.error:
                print()  # ends the line of the tokens before the failure
            if not quiet and (not live or value.error or printing != side):
                print(f"{side:<5}  {sides[side].checkpoint}: {plain(value.error or value.text)}")
            elif not quiet:
                print()
            printing = ""
        elif isinstance(value, Step) and live and not quiet:
            if printing != side:
                print(f"{side:<5}  {sides[side].checkpoint}: ", end="")
                printing = side
            print(plain(value.text), end="", flush=True)
        elif kind == "notice":
            print(terminal.wrapped(f"note on the {side} side: {plain(str(value))}"), file=sys.stderr)
        elif kind == "status":
            terminal.status(f"{side}: {value}")
    return {name: answers[name] for name in sides}


def _one_round(items: Iterator[Event | Repeats | None]) -> Iterator[Event]:
    """The events of the first round, which is printed as it comes."""
    from vlcompare.comparison import Event

    for item in items:
        if not isinstance(item, Event):
            return
        yield item


def _further_rounds(items: Iterator[Event | Repeats | None]) -> Repeats | None:
    """All rounds; on a terminal, with a line that says which one is running."""
    from vlcompare.repeats import Repeats

    repeats = None
    for item in items:
        if isinstance(item, Repeats):
            repeats = item
            terminal.status(f"{len(item.rounds)} of {item.asked} rounds")
    return repeats
