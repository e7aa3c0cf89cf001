"""What an answer rests on: the log-probability of a given answer, with one part of the picture blanked at a time.

Occlusion, after Zeiler and Fergus (arXiv 1311.2901, section 4.2), applied to the answer of a language model. The answer
is read again with all its tokens at once; nothing is generated, and both architectures are measured by the same calls.
Features of the picture's mean patch need no second pass of the vision encoder; blurred pixels need one a block.
"""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image, ImageFilter
from torch import Tensor

from vlcompare.errors import CheckpointError, DeviceMemoryError, RequestError
from vlcompare.evidence import BLANKS, Blank, Block, EvidenceMap, Layout
from vlcompare.models.interruption import Interrupted, interruptible
from vlcompare.models.kernels.cpu.openmp import each_at_most
from vlcompare.runtime.encode_prompt import check_length, encode_prompt
from vlcompare.runtime.engine import Cancel, stream_request
from vlcompare.runtime.image import open_image
from vlcompare.runtime.memory import check_room
from vlcompare.runtime.picture_cache import picture_key
from vlcompare.runtime.step_graphs import release_unused
from vlcompare.tasks.prompts import validate
from vlcompare.tasks.reading import read_answer
from vlcompare.types import Answer, Request, Token

if TYPE_CHECKING:
    from vlcompare.runtime.loading.model import Model
    from vlcompare.runtime.picture_cache import PictureCache

Progress = Callable[[int, int], None]  # blocks measured so far, and how many there are

MAX_BYTES = 1 << 30  # of one batch
MAX_ROWS = 16  # of one batch
_BLUR = 1 / 14  # standard deviation as a share of the picture's side: two patches of a 7 x 7 grid become one


def explain(
    model: Model,
    image: Any,
    *,
    task: str,
    text: str = "",
    answer: Answer | str | None = None,
    blank: Blank = "mean",
    block: int | None = None,
    cancel: Cancel | None = None,
    progress: Progress | None = None,
    **question: Any,
) -> EvidenceMap:
    """Where the log-probability of an answer falls when a part of the picture is blanked, as an EvidenceMap.

    image: a path, bytes, or a PIL image. task, text and `question` (choices, box, ocr_text, prompt_order, ...) are the
    fields of a Request. answer: what the model answered (its tokens are read), a text (read as the model would have
    ended it), or None: the model is asked first. The other arguments are those of `explain_batches`; `progress` is
    called after each batch with the number of blocks measured so far, and of all. Raises RequestError or ImageError
    where the question, the answer or the picture is refused, and DeviceMemoryError where the device's memory does not
    suffice.
    """
    if unknown := sorted(question.keys() - {field.name for field in dataclasses.fields(Request)}):
        raise RequestError(f"A question has no field {unknown[0]!r}; see the fields of Request.")
    request = Request(task, text, **question)
    options = {"blank": blank, "block": block, "cancel": cancel}
    return explain_request(model, image, request, answer, progress=progress, **options)


def explain_request(
    model: Model,
    image: Any,
    request: Request,
    answer: Answer | str | None = None,
    *,
    progress: Progress | None = None,
    **options: Any,
) -> EvidenceMap:
    """`explain` for a Request: the last map of `explain_batches`, which takes the options.

    progress: called after each batch with the number of blocks measured so far, and of all.
    """
    batches = explain_batches(model, image, request, answer, **options)
    found = next(batches)
    for found in batches:
        if progress is not None:
            progress(sum(fall is not None for fall in found.falls), len(found.falls))
    return found


def explain_batches(
    model: Model,
    image: Any,
    request: Request,
    answer: Answer | str | None = None,
    *,
    blank: Blank = "mean",
    block: int | None = None,
    cancel: Cancel | None = None,
    pictures: PictureCache | None = None,
    batch_size: int = MAX_ROWS,
) -> Iterator[EvidenceMap]:
    """The map after each batch of blocks, the first one without any and the last one whole unless it was cancelled.

    blank: "mean" puts the picture's mean patch in place of a block's features; "blur" blurs the block's pixels, which
    also changes what the encoder writes elsewhere. block: patches a side; None takes the finest grain of at most
    MAX_BLOCKS blocks, which is every patch of a 7 x 7 grid and 3 x 3 patches of a 24 x 24 one. cancel: is looked at
    between two layers; the map then ends with the last whole batch, or in a RequestError where there is none yet.
    pictures: a cache of pictures' features, as in `generate_batch`. batch_size: rows of a batch at most; fewer are
    taken where MAX_BYTES would not hold them. What is refused is refused before the first map.
    """
    request = validate(request)
    if blank not in BLANKS:
        raise RequestError(f"A part is blanked by one of {', '.join(BLANKS)}, not by {blank!r}.")
    layout = Layout.of(*model.vlm.vision_encoder.grid, block)
    if answer is None:
        *_, answer = stream_request(model, image, request, cancel=cancel)  # type: ignore[assignment]
    given = _given(model, request, answer)
    cancel = cancel or threading.Event()
    prepare = partial(_Measurement, model, image, request, given, layout, blank, pictures, max(1, batch_size))
    return each_at_most(_maps(model, prepare, cancel), model.most_threads)


@torch.inference_mode()
def _maps(model: Model, prepare: Callable[[], _Measurement], cancel: Cancel) -> Generator[EvidenceMap, None, None]:
    try:
        with interruptible(cancel.is_set):
            measurement = prepare()
        yield from measurement.maps(cancel)
    except Interrupted:
        raise RequestError("There is no map: it was stopped before its first block.") from None
    except torch.OutOfMemoryError as error:
        release_unused()
        raise DeviceMemoryError(
            f"The device ran out of memory while reading an answer again with {model.checkpoint}: choose larger "
            "blocks, a smaller checkpoint, or nf4."
        ) from error


def answer_logprobs(model: Model, prompt: Sequence[int], answer: Sequence[int], features: Tensor) -> Tensor:
    """Log-probabilities (B, T) of each of an answer's T tokens after those before it, float32 on the CPU.

    prompt, answer: ids. features (B, P, D): one row for each version of the picture. One forward pass over prompt and
    answer; the values are those that the engine records while it generates, but for rounding.
    """
    lm: Any = model.vlm.language_model
    rows, count = len(features), len(answer)
    ids_bl = torch.tensor([*prompt, *answer[:-1]], device=model.device).expand(rows, -1)
    hidden_bld = lm.forward(model.vlm.embed(ids_bl, features))
    logits_btv = lm.logits(hidden_bld[:, -count:])
    wanted_bt1 = torch.tensor(answer, device=model.device).expand(rows, -1)[:, :, None]
    return logits_btv.log_softmax(-1).gather(-1, wanted_bt1)[:, :, 0].cpu()  # type: ignore[no-any-return]


def _given(model: Model, request: Request, answer: Answer | str | None) -> Answer:
    """The answer with ids of tokens that the model knows. Raises RequestError."""
    if isinstance(answer, str):
        if not answer.strip():
            raise RequestError("An empty answer rests on nothing: give the text of an answer.")
        ids = [*model.tokenizer.encode(answer), model.tokenizer.end_id]
        reading = read_answer(request, answer)
        answer = Answer(reading.text, reading.boxes, tokens=tuple(Token(id, "", 0.0) for id in ids))
    if not isinstance(answer, Answer):
        raise RequestError(f"An answer is an Answer or a text, not {type(answer).__name__}.")
    if answer.error:
        raise RequestError(f"There is no answer to explain: {answer.error}")
    if not answer.tokens:
        raise RequestError("There is no answer to explain: it was stopped before its first token.")
    vocabulary = model.config.language.vocab_size
    if not all(0 <= token.id < vocabulary for token in answer.tokens):
        raise RequestError(f"The answer has tokens that {model.checkpoint} does not know: give its own answer.")
    return answer


class _Measurement:
    """The versions of one picture, and the log-probability of one answer given each."""

    def __init__(
        self,
        model: Model,
        image: Any,
        request: Request,
        answer: Answer,
        layout: Layout,
        blank: Blank,
        pictures: PictureCache | None,
        batch_size: int,
    ) -> None:
        self._model, self._answer, self._layout, self._blank = model, answer, layout, blank
        self._prompt = encode_prompt(model, request).ids
        self._ids = [token.id for token in answer.tokens]
        check_length(model, len(self._prompt) + len(self._ids) - 1)
        self._batch_size = self._rows(batch_size)
        key = picture_key(image) if pictures is not None else None
        encoded = pictures.encoded(key, model) if pictures is not None and blank == "mean" else None
        if encoded is not None:
            self._features = model.vlm.connect(encoded.features[None])[0]  # (P, D)
            return
        picture = open_image(image)
        self._pixels = torch.as_tensor(model.preprocess(picture))  # (3, S, S)
        if blank == "blur":
            self._blurred = self._blur(picture)  # (3, S, S)
        features_pc = model.vlm.vision_features(self._pixels[None].to(model.device, model.vision_dtype))[0]
        if pictures is not None:
            pictures.keep_encoded(key, model, features_pc)
        self._features = model.vlm.connect(features_pc[None])[0]

    def maps(self, cancel: Cancel) -> Generator[EvidenceMap, None, None]:
        """The map without any block, then after each batch, until all is measured or `cancel` is set.

        Raises Interrupted where it is set before the first map.
        """
        with interruptible(cancel.is_set):
            whole = self._logprob(self._features[None])[0]
        if math.isnan(whole):
            raise CheckpointError(
                f"{self._model.checkpoint} gives this answer a log-probability that is not a number: its weights are "
                "damaged or overflow; `checkpoints verify` tells more."
            )
        blocks, falls = list(self._layout), list[float | None]()
        yield self._map(whole, falls)
        while len(falls) < len(blocks) and not cancel.is_set():
            batch = blocks[len(falls) : len(falls) + self._batch_size]
            try:
                with interruptible(cancel.is_set):
                    falls += [whole - one for one in self._logprob(self._blanked(batch))]
            except Interrupted:
                return
            yield self._map(whole, falls)

    def _map(self, whole: float, falls: Sequence[float | None]) -> EvidenceMap:
        every = (*falls, *[None] * (len(self._layout) - len(falls)))
        text, boxes = self._answer.text, self._answer.boxes
        return EvidenceMap(
            every, self._layout, self._blank, whole, text, boxes, len(self._ids), self._model.checkpoint
        )  # fmt: skip

    def _rows(self, most: int) -> int:
        """How many rows of a batch MAX_BYTES hold, at least one and at most `most`."""
        model, length = self._model, len(self._prompt) + len(self._ids)
        lm: Any = model.vlm.language_model
        size = torch.finfo(model.dtype).bits // 8
        layer = 24 * length * model.config.language.hidden_size * size  # what one block has in memory at a time
        scores = 3 * 4 * len(self._ids) * model.config.language.vocab_size
        row = lm.state_bytes_formula(length, 1) + layer + scores
        rows = max(1, min(most, MAX_BYTES // row))
        check_room(f"Reading an answer again with {model.checkpoint}", rows * row, model.device)
        return int(rows)

    def _logprob(self, features: Tensor) -> list[float]:
        """The whole answer's log-probability for each of the features (B, P, D)."""
        return answer_logprobs(self._model, self._prompt, self._ids, features).double().sum(1).tolist()  # type: ignore[no-any-return]

    def _blanked(self, blocks: Sequence[Block]) -> Tensor:
        """Features (B, P, D) of the picture with one block blanked in each row."""
        rows, columns = self._layout.rows, self._layout.columns
        if self._blank == "mean":
            features_brcd = self._features.unflatten(0, (rows, columns)).repeat(len(blocks), 1, 1, 1)
            mean_d = self._features.float().mean(0).to(self._features.dtype)
            for one, (row, column, row_end, column_end) in zip(features_brcd, blocks, strict=True):
                one[row:row_end, column:column_end] = mean_d
            return features_brcd.flatten(1, 2)
        pixels_b3ss = self._pixels.repeat(len(blocks), 1, 1, 1)
        high, wide = self._pixels.shape[1] // rows, self._pixels.shape[2] // columns  # of a patch, in pixels
        for one, (row, column, row_end, column_end) in zip(pixels_b3ss, blocks, strict=True):
            part = (slice(None), slice(row * high, row_end * high), slice(column * wide, column_end * wide))
            one[part] = self._blurred[part]
        return self._encode(pixels_b3ss)

    def _blur(self, picture: Any) -> Tensor:
        """The pixels (3, S, S) of the whole picture, blurred."""
        side = self._pixels.shape[1]
        square = picture.resize((side, side), Image.Resampling.BILINEAR)
        return torch.as_tensor(self._model.preprocess(square.filter(ImageFilter.GaussianBlur(_BLUR * side))))

    def _encode(self, pixels_b3ss: Tensor) -> Tensor:
        """Features (B, P, D). On a CPU one by one, so that they are the same whatever the batch."""
        model = self._model
        together = len(pixels_b3ss) if model.device.type == "cuda" else 1
        parts = pixels_b3ss.to(model.device, model.vision_dtype).split(together)
        return torch.cat([model.vlm.encode_image(part) for part in parts])
