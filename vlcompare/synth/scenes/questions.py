"""From a scene to rows: every task's questions, with their answers, choices, boxes and tags.

`ask` is deterministic: a task's rows depend on the scene's seed and stream alone, not on which other tasks are asked.
The questions about things are in `questions_things`, those about documents in `questions_documents`; the wording of
the prompts around them is in `vlcompare.tasks`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from vlcompare.errors import RequestError
from vlcompare.synth.scenes import questions_documents, questions_things
from vlcompare.synth.scenes.dice import Dice
from vlcompare.synth.scenes.drafts import Draft, Facts
from vlcompare.synth.scenes.phrases import words_of
from vlcompare.synth.scenes.scene import Scene, SceneObject
from vlcompare.types import TASKS, Box, Sample

GRID = 8  # rows and columns of the raster in which positions are given
SOURCE = "vlcompare-scenes"
SCENE_TASKS: tuple[str, ...] = tuple(task for task in TASKS if task != "chat")  # all that scenes have questions for

Maker = Callable[[Facts, Dice], list[Draft]]


def ask(scene: Scene, tasks: Sequence[str] | None = None) -> list[Sample]:
    """All rows of a scene, in the order of TASKS; `image` is None, to be filled by the caller, which keeps the picture.

    Raises RequestError for a task that scenes have no questions for.
    """
    for task in tasks or ():
        if task not in SCENE_TASKS:
            raise RequestError(f"Scenes have no questions for {task!r}; the tasks are {', '.join(SCENE_TASKS)}.")
    makers: dict[str, Maker] = questions_documents.MAKERS if scene.document else questions_things.MAKERS
    facts, objects = Facts(scene.objects, scene.document), as_objects(scene)
    dice = Dice(scene.seed, scene.stream, 1)
    samples: list[Sample] = []
    for task in SCENE_TASKS:
        own = dice.child()  # drawn for every task, asked or not
        if task in makers and (tasks is None or task in tasks):
            drafts = makers[task](facts, own)
            samples += [_sample(scene, task, k, draft, objects) for k, draft in enumerate(drafts)]
    return samples


def as_objects(scene: Scene) -> tuple[dict[str, Any], ...]:
    """What is in the picture, as plain rows; a document is one thing, and each of its lines another."""
    document = scene.document
    if document is None:
        return tuple(_row(thing.kind, thing.color, thing.size, thing.box, thing.text) for thing in scene.objects)
    lines = (_row("line", None, None, line.box, f"{line.key} {line.value}") for line in document.lines)
    return (_row(document.kind, document.accent, None, document.card, None), *lines)


def _row(kind: str, color: str | None, size: str | None, box: Box, text: str | None) -> dict[str, Any]:
    return {"kind": kind, "color": color, "size": size, "box": [round(value, 5) for value in box], "text": text}


def _sample(scene: Scene, task: str, k: int, draft: Draft, objects: tuple[dict[str, Any], ...]) -> Sample:
    tags: dict[str, Any] = {
        "type": draft.type,
        **draft.tags,
        "things": len(scene.objects) if scene.document is None else len(scene.document.lines),
        "words": len(words_of(draft.text)),
        "ground": scene.ground.kind,
        "document": scene.document.kind if scene.document else None,
    }
    if task in ("vqa", "document_vqa"):
        tags["letters"] = len(draft.references[0])
    if draft.target is not None:
        tags |= place_tags(draft.target)
    return Sample(
        id=f"{scene.seed:06d}-{task}-{k}",
        image=None,
        task=task,
        text=draft.text,
        choices=draft.choices,
        references=draft.references,
        boxes=draft.boxes,
        source=SOURCE,
        split=scene.stream,
        tags=tags,
        objects=objects,
        image_key=f"{scene.stream}-{scene.seed:06d}",
    )


def place_tags(target: SceneObject | Box) -> dict[str, Any]:
    """Where the thing asked about is: its box's area, its row and column, and how far along the raster it is."""
    box = target if isinstance(target, Box) else target.box
    x, y = box.center
    column, row = min(GRID - 1, int(x * GRID)), min(GRID - 1, int(y * GRID))
    position = (row * GRID + column) / (GRID * GRID - 1)
    tags = {"area": round(box.area, 4), "row": row, "column": column, "position": round(position, 3)}
    return tags if isinstance(target, Box) else tags | {"size": target.size, "kind": target.kind, "color": target.color}
