"""The order of positions in a prompt: image positions in raster order with separators, joined with the turns' ids.

The layout is the published checkpoints' own
(arXiv 2409.05395): a mark, the first row of patches, a separator, the next row, ..., and the mark again in place of
the last separator; a 24 x 24 grid gives 24 * 24 + 24 + 1 = 601 positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

IMAGE_SLOT = -200  # holds the place of one image feature; text never produces it
IMAGE_MARK = "<image>"  # a turn that is exactly this marks the image; no text turn of a task ever is


def image_ids(rows: int, cols: int, *, mark: int, separator: int) -> tuple[int, ...]:
    """Ids of the image part for a grid of `rows` x `cols` patches, each patch an IMAGE_SLOT."""
    if rows < 1 or cols < 1:
        raise ValueError(f"An image needs at least one row and one column of patches, got {rows} x {cols}.")
    ids = [mark]
    for _ in range(rows):
        ids += [IMAGE_SLOT] * cols
        ids.append(separator)
    ids[-1] = mark
    return tuple(ids)


def prompt_ids(turns: Sequence[str], encode: Callable[[str], Sequence[int]], image: Sequence[int]) -> tuple[int, ...]:
    """Ids of a whole prompt.

    Every turn is encoded on its own, as the checkpoints were trained: token boundaries differ when turns are joined
    first.
    """
    return tuple(id for turn in turns for id in (image if turn == IMAGE_MARK else encode(turn)))
