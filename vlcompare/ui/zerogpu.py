"""Hosts that lend a GPU for seconds at a time (ZeroGPU on Hugging Face Spaces): the comparison inside such a loan.

Everywhere else `adapt` gives the comparison back as it is. There, a worker process is forked for each call and killed
after it: so only plain values cross over (events hold no tensors), CUDA graphs are captured inside the call, and kept
caches do not survive it, which is why follow-ups ask anew.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping
from typing import Any

from vlcompare.types import Request
from vlcompare.ui.compare.event_stream import PACE, Compare
from vlcompare.ui.settings import AppSettings

SECONDS_TO_START = 12.0  # moving two loaded checkpoints to the device, and the first kernels
SECONDS_PER_TOKEN = 0.06  # a generous bound for 2.8B in bf16
LONGEST = 120


def on_zerogpu(environment: Mapping[str, str] | None = None) -> bool:
    """Whether this process runs on such a host."""
    env = os.environ if environment is None else environment
    return env.get("SPACES_ZERO_GPU", "").lower() in ("1", "true") and importlib.util.find_spec("spaces") is not None


def seconds_needed(request: Request, sides: Mapping[str, Any]) -> int:
    """An estimate of the loan for one comparison: start, then every side's tokens, doubled for the warm-up's sake."""
    from vlcompare.tasks.prompts import default_max_new_tokens

    own = request.max_new_tokens or default_max_new_tokens(request)
    tokens = sum(side.max_new_tokens or own for side in sides.values())
    return int(min(LONGEST, SECONDS_TO_START + 4 * len(sides) + SECONDS_PER_TOKEN * tokens))


def adapt(compare: Compare, pool: Any, settings: AppSettings, spaces: Any = None) -> Compare:
    """`compare`, run inside loans of a GPU. spaces: the host's module, given by tests."""
    if spaces is None:
        import spaces  # type: ignore[no-redef]

    def duration(image: bytes, request: Request, sides: Mapping[str, Any], mode: str, deadline: float) -> int:
        return seconds_needed(request, sides)

    @spaces.GPU(duration=duration)
    def lent(image: bytes, request: Request, sides: Mapping[str, Any], mode: str, deadline: float) -> Iterator[Any]:
        yield from compare(image, request, sides, mode=mode, pool=pool, deadline=deadline, tick=PACE)

    def compare_on_loan(
        image: bytes, request: Request, sides: Mapping[str, Any], *, mode: str = "measure", cancel: Any = None,
        deadline: float | None = None, **_: Any,
    ) -> Iterator[Any]:  # fmt: skip
        events = lent(image, request, dict(sides), mode, min(deadline or LONGEST, seconds_needed(request, sides)))
        try:
            for event in events:
                yield event
                if cancel is not None and cancel.is_set():
                    return
        finally:
            events.close()

    return compare_on_loan
