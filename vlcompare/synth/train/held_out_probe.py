"""Quick held-out scores while a language model trains: greedy answers to a fixed set of samples, scored strictly.

Not the evaluation: `vlcompare.evaluate` scores the finished checkpoints through the engine.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlcompare.synth.train import word_tokenizer
from vlcompare.synth.train.corpus import Corpus
from vlcompare.synth.train.encoded_questions import Lessons
from vlcompare.synth.train.learner import Learner, embed_prefix, embed_with_images
from vlcompare.tasks.boxes import parse_boxes
from vlcompare.types import TASKS

LONGEST = 48  # new tokens
MAX_SAMPLES = 50  # samples of a task


@cache
def _texts() -> tuple[bytes, ...]:
    back = {character: byte for byte, character in word_tokenizer.byte_characters().items()}
    spelt = sorted(word_tokenizer.vocabulary(), key=word_tokenizer.vocabulary().__getitem__)
    return (b"", *(bytes(back[character] for character in piece) for piece in spelt[1:]))


def text_of(ids: list[int]) -> str:
    """The text of ids up to the end of text."""
    end = ids.index(0) if 0 in ids else len(ids)
    return b"".join(_texts()[token] for token in ids[:end]).decode("utf-8", errors="replace")


@torch.no_grad()
def greedy(
    learner: Learner, features: Tensor, prompts: list[np.ndarray], limit: int = LONGEST, *, image_leads: bool = True
) -> list[list[int]]:
    """Greedy answers to prompts, one picture's features (P, C) each.

    `image_leads`: the prompts are the ids behind the image, which may hold further images; else they hold all of them.
    """
    model: Any = learner.language_model  # of either family: its state goes back into it alone
    device = features.device
    prefix, connected = embed_prefix(learner, features)
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.zeros(len(prompts), longest, dtype=torch.long, device=device)
    pads = torch.tensor([longest - len(prompt) for prompt in prompts], device=device)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = torch.from_numpy(prompt.astype(np.int64))
    whole = embed_with_images(learner, ids, connected)
    if image_leads:
        whole = torch.cat([prefix, whole], dim=1)
    length = whole.shape[1]
    # padding belongs on the left, before the picture
    positions = torch.arange(length, device=device) - pads[:, None]
    whole = whole.gather(1, (positions % length)[:, :, None].expand_as(whole))
    state = model.new_state(len(prompts), length + limit)
    hidden = model.forward(whole, state, positions >= 0)[:, -1]
    answers: list[list[int]] = [[] for _ in prompts]
    done = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    for _ in range(limit):
        token = model.logits(hidden).argmax(-1)
        for row, value in enumerate(token.tolist()):
            answers[row].append(value)
        done |= token == 0
        if done.all():
            break
        hidden = model.step(model.embed_tokens(token), state)
    return answers


def _chosen(lessons: Lessons, most: int) -> np.ndarray:
    return np.sort(np.concatenate([np.nonzero(lessons.tasks == task)[0][:most] for task in range(len(TASKS))]))


@torch.no_grad()
def probe(
    learner: Learner, corpus: Corpus, device: torch.device, most: int = MAX_SAMPLES, batch: int = 50
) -> dict[str, float]:
    """Share right per task: IoU above 0.5 for grounding, the reference word for word for all others."""
    lessons = corpus.held_lessons
    samples = _chosen(lessons, most)
    owners = np.searchsorted(lessons.pictures, samples, side="right") - 1
    lengths = lessons.answers[samples]
    right: dict[str, list[bool]] = {}
    for group in np.array_split(np.argsort(lengths, kind="stable"), max(1, len(samples) // batch)):
        rows = samples[group]
        prompts = [lessons.ids[lessons.starts[s] : lessons.starts[s] + lessons.answers[s]] for s in rows]
        features = torch.from_numpy(corpus.held_features[owners[group]]).float().to(device)
        for sample, ids in zip(rows, greedy(learner, features, prompts), strict=True):
            task = TASKS[lessons.tasks[sample]]
            wanted = text_of(
                lessons.ids[lessons.starts[sample] + lessons.answers[sample] : lessons.starts[sample + 1]].tolist()
            )
            right.setdefault(task, []).append(_is_right(task, text_of(ids), wanted))
    return {f"held_{task}": float(np.mean(values)) for task, values in right.items()}


def _is_right(task: str, answer: str, wanted: str) -> bool:
    if task != "grounding":
        return answer.strip() == wanted.strip()
    found, real = parse_boxes(answer), parse_boxes(wanted)
    return bool(found and real and found[0].iou(real[0]) > 0.5)
