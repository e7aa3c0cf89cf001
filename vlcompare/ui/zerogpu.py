"""ZeroGPU on Hugging Face Spaces: the comparison in a call that gets a GPU for some seconds.

A worker process is forked for each call and ends with it: only picklable values pass (events hold no tensors), CUDA
graphs are captured inside the call, and caches do not survive it, so follow-ups ask anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vlcompare.types import Request
from vlcompare.ui.compare.event_stream import PACE, Compare
from vlcompare.ui.settings import AppSettings

SECONDS_TO_START = 12.0  # moving two loaded checkpoints to the device, and the first kernels
SECONDS_PER_TOKEN = 0.06  # a generous bound for 2.8B in bf16
LONGEST = 120


def seconds_needed(request: Request, sides: Mapping[str, Any]) -> int:
    """An estimate of one comparison's seconds: start, then every side's tokens."""
    from vlcompare.tasks.prompts import default_max_new_tokens

    own = request.max_new_tokens or default_max_new_tokens(request)
    tokens = sum(side.max_new_tokens or own for side in sides.values())
    return int(min(LONGEST, SECONDS_TO_START + 4 * len(sides) + SECONDS_PER_TOKEN * tokens))


def adapt(compare: Compare, pool: Any, settings: AppSettings, spaces: Any = None) -> Compare:
    """`compare`, run inside `spaces.GPU` calls. spaces: the module; given by tests."""
    if spaces is None:
        import spaces  # type: ignore[no-redef]

    def duration(image: bytes, request: Request, sides: Mapping[str, Any], mode: str, deadline: float) -> int:
        return seconds_needed(request, sides)

    @spaces.GPU(duration=duration)
    def on_gpu(image: bytes, request: Request, sides: Mapping[str, Any], mode: str, deadline: float) -> Iterator[Any]:
        yield from compare(image, request, sides, mode=mode, pool=pool, deadline=deadline, tick=PACE)

    def compare_on_zerogpu(
        image: bytes, request: Request, sides: Mapping[str, Any], *, mode: str = "measure", cancel: Any = None,
        deadline: float | None = None, **_: Any,
    ) -> Iterator[Any]:  # fmt: skip
        events = on_gpu(image, request, dict(sides), mode, min(deadline or LONGEST, seconds_needed(request, sides)))
        try:
            for event in events:
                yield event
                if cancel is not None and cancel.is_set():
                    return
        finally:
            events.close()

    return compare_on_zerogpu
