"""Work that is done before an answer is timed, so that what happens once a process is in no figure.

On a GPU kernels are chosen, compiled and captured by shape, so the question itself is asked, with its own limit of
tokens and its prompt read in as many parts, and left after a few of them; that takes a fraction of what it spares. On a
CPU a question of a large model takes half a minute, and nothing there depends on its length: a few positions compile
the loops, start the threads and touch the weights.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from vlcompare.models.interruption import Interrupted, interruptible
from vlcompare.models.kernels.cpu.openmp import at_most
from vlcompare.runtime import engine
from vlcompare.runtime.picture_cache import PictureCache
from vlcompare.types import Request, Step

if TYPE_CHECKING:
    from vlcompare.runtime.loading.model import Model

TOKENS = 3
POSITIONS = 8  # more than the few rows that single steps' kernels take


def warm_up(model: Model, image: Any, request: Request, cancel: engine.Cancel, *, in_parts: bool = False) -> None:
    """Make the model ready to answer this request; ends early, without an error, once `cancel` is set.

    in_parts: the state after the picture will be kept, so that the prompt is read in two parts.
    """
    if model.device.type != "cpu":
        pictures = PictureCache(prefixes=in_parts)  # its own: the answer's times contain the picture
        pictures.begin_question()
        items = engine.stream_request(
            model, image, replace(request, stop_at_end=False), cancel=cancel, pictures=pictures
        )
        with closing(items):  # type: ignore[type-var]
            for item in items:
                if isinstance(item, Step) and item.index + 1 >= TOKENS:
                    return
        return
    with at_most(model.most_threads), interruptible(cancel.is_set):
        try:
            _read_a_few(model)
        except Interrupted:
            return


@torch.inference_mode()
def _read_a_few(model: Model) -> None:
    lm: Any = model.vlm.language_model
    state = lm.new_state(1, POSITIONS + TOKENS, device=model.device, dtype=model.dtype)
    ids = torch.zeros(1, POSITIONS, dtype=torch.long)
    logits = lm.logits(lm.forward(lm.embed_tokens(ids), state)[:, -1])
    for _ in range(TOKENS):
        logits = lm.logits(lm.step(lm.embed_tokens(logits.argmax(-1)), state))
