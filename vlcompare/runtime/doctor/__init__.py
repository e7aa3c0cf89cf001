"""What this machine is, what runs on it and why, and what should work and does not: the text of a bug report.

`sections` gives one part after the other, the light ones before torch is imported; `Report` holds them all. Nothing
private is in a part: no folder outside of ~, no user's or host's name, no token, no address of a mirror.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from vlcompare.runtime.doctor import software
from vlcompare.runtime.doctor.facts import (
    Answered,
    Device,
    Hub,
    Operation,
    Processor,
    Rate,
    Software,
    Storage,
    Trial,
)


@dataclass(frozen=True, slots=True)
class Report:
    """All parts. problems: a sentence for each thing that should work and does not."""

    software: Software
    processor: Processor
    devices: tuple[Device, ...]
    answers: tuple[Answered, ...]
    operations: tuple[Operation, ...]
    trials: tuple[Trial, ...]
    bandwidth: tuple[Rate, ...]
    hub: Hub
    storage: Storage
    notices: tuple[str, ...]
    problems: tuple[str, ...]


def sections() -> Iterator[tuple[str, Any]]:
    """(name of a field of `Report`, its value), in the order in which they are found; some seconds in all.

    A part that fails is a problem, and the others go on.
    """
    yield "software", software.installed()
    yield "processor", software.processor()
    from vlcompare.runtime.doctor import hardware, operations, storage  # here: they bring torch along

    problems: list[str] = []

    def part(name: str, collect: Callable[..., tuple[Any, list[str]]], *given: Any) -> tuple[str, Any]:
        try:
            value, found = collect(*given)
        except Exception as error:  # a report of what fails must not fail
            value, found = (), [f"The part {name!r} could not be found out: {software.reason(error)}."]
        problems.extend(found)
        return name, value

    problems += software.missing()
    devices = part("devices", hardware.devices)
    yield devices
    yield part("answers", operations.answers, devices[1])
    yield part("trials", operations.trials, devices[1])
    yield part("operations", operations.operations, devices[1])
    yield part("bandwidth", hardware.rates, devices[1])
    yield part("hub", storage.hub_state)
    yield part("storage", storage.storage)
    yield part("notices", operations.notices)
    yield "problems", tuple(problems)


def report() -> Report:
    """All of it."""
    return Report(**dict(sections()))
