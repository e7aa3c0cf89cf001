"""`doctor`: what this machine is, what runs on it and why, and what should work and does not."""

from __future__ import annotations

import argparse
import dataclasses
import textwrap
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from vlcompare import terminal
from vlcompare.cli.options import add_json, check_outputs
from vlcompare.units import format_bytes

_LABEL = 14  # characters of the first column


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "doctor",
        help="what this machine is, what runs on it and why: the text for a bug report",
        description="Says what this machine is, which kernel takes each operation and why not a faster one, and what "
        "should work and does not. Nothing private is in the text. The exit status is 1 where something is wrong.",
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    check_outputs(args)
    from vlcompare.runtime import doctor

    found: dict[str, Any] = {}
    for name, value in doctor.sections():
        found[name] = value
        if args.json != "-":
            for line in lines(name, value):
                print(line, flush=True)
    if args.json:
        from vlcompare.cli.report import write_json

        write_json(args.json, dataclasses.asdict(doctor.Report(**found)))
    return 1 if found["problems"] else 0


def lines(name: str, value: Any) -> Iterator[str]:
    """A part of the report as lines that fit the terminal; none for a part without anything in it."""
    for label, text in _TEXTS[name](value) if value or name == "problems" else ():
        yield textwrap.fill(
            f"{label:<{_LABEL}}{text}", max(40, terminal.width()), subsequent_indent=" " * _LABEL,
            break_on_hyphens=False, drop_whitespace=True,
        )  # fmt: skip


def _software(value: Any) -> Iterable[tuple[str, str]]:
    yield "vlcompare", f"{value.vlcompare}, Python {value.python}, {value.system}"
    yield "packages", ", ".join(f"{name} {version}" for name, version in value.versions.items())
    if value.switches:
        yield "environment", ", ".join(f"{name}={text}" for name, text in value.switches.items())


def _processor(value: Any) -> Iterable[tuple[str, str]]:
    limits = value.thread_limits
    yield (
        "processor",
        f"{value.name}, {value.cores} cores seen; {', '.join(value.instruction_sets) or 'instructions unknown'}",
    )
    quota = "no quota" if limits["quota"] == "none" else f"a quota of {limits['quota']}"
    side_by_side = limits["LOCAL_WORLD_SIZE"]
    among = "" if side_by_side == "not set" else f", shared by {side_by_side} processes (LOCAL_WORLD_SIZE)"
    yield (
        "threads",
        f"{value.threads}: {limits['cores']} cores that this process may run on, {quota}, OMP_NUM_THREADS "
        f"{limits['OMP_NUM_THREADS']}{among}",
    )


def _devices(value: Any) -> Iterable[tuple[str, str]]:
    for one in value:
        bfloat16 = "own bfloat16 instructions" if one.bfloat16 else "no bfloat16 instructions"
        memory = f"{format_bytes(one.free_bytes)} free of {format_bytes(one.total_bytes)}"
        cuda = f"; {one.cuda}" if one.cuda else ""
        yield one.name, f"{one.title}; {memory}; capability {one.capability}; {bfloat16}{cuda}"


def _answers(value: Any) -> Iterable[tuple[str, str]]:
    for one in value:
        found = f"{one.tokens} tokens as expected" if one.agrees else one.error or "other tokens than expected"
        yield "answer", f"{one.checkpoint} on {one.device}: {found}, {one.seconds:.1f} s with loading"


def _operations(value: Any) -> Iterable[tuple[str, str]]:
    from vlcompare.runtime.doctor.facts import alike

    for (device, kernel, reason), names in alike(value).items():
        because = f" ({reason.rstrip('.')})" if reason else ""
        yield "kernels", f"{device}, {kernel}: {', '.join(names)}{because}"


def _trials(value: Any) -> Iterable[tuple[str, str]]:
    for one in value:
        difference = "" if one.difference is None else f", difference {one.difference:.1e} of {one.allowed:.0e} allowed"
        times = "" if one.ours is None else f", {one.ours:.1f} us (what it replaces {one.theirs:.1f})"
        exception = f": {one.exception}" if one.exception else ""
        yield "proof", f"{one.device}, {one.case}: {one.verdict}{difference}{times}, {one.seconds:.1f} s{exception}"


def _bandwidth(value: Any) -> Iterable[tuple[str, str]]:
    for one in value:
        product = "" if one.product is None else f", product of one row {one.product:.1f}"
        yield "bandwidth", f"{one.device}: copy {one.copy:.1f} GB/s, read {one.read:.1f}{product} (a short measurement)"


def _hub(value: Any) -> Iterable[tuple[str, str]]:
    token = "a token is set" if value.signed_in else "no token"
    mirror = ", by a mirror (HF_ENDPOINT)" * value.mirror
    detail = f": {value.detail}" if value.detail else ""
    yield "Hub", f"{value.state}{mirror}, {token}{detail}"


def _storage(value: Any) -> Iterable[tuple[str, str]]:
    yield "cache", f"{value.cache}, {format_bytes(value.cache_free_bytes)} free"
    yield "data", f"{value.data}, {format_bytes(value.data_free_bytes)} free"
    by_state: dict[str, list[str]] = {}
    for name, state in value.checkpoints.items():
        by_state.setdefault("to download" if state.startswith("to download") else state, []).append(name)
    for state, names in by_state.items():
        yield "checkpoints", f"{state}: {', '.join(names)}"


def _notices(value: Any) -> Iterable[tuple[str, str]]:
    return (("notice", one) for one in value)


def _problems(value: Any) -> Iterable[tuple[str, str]]:
    return (("PROBLEM", one) for one in value) if value else [("problems", "none found")]


_TEXTS: dict[str, Callable[[Any], Iterable[tuple[str, str]]]] = {
    "software": _software,
    "processor": _processor,
    "devices": _devices,
    "answers": _answers,
    "trials": _trials,
    "operations": _operations,
    "bandwidth": _bandwidth,
    "hub": _hub,
    "storage": _storage,
    "notices": _notices,
    "problems": _problems,
}
