"""What is kept of one picture on one side for follow-up questions, and where a question starts from."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from vlcompare.errors import RequestError
from vlcompare.runtime.encode_prompt import check_length, encode_prompt, encode_turns, image_end
from vlcompare.runtime.picture_cache import PictureCache, picture_key
from vlcompare.tasks.prompts import SPECS, build_turns
from vlcompare.tasks.sequence import IMAGE_MARK
from vlcompare.types import FollowUp, Prompt, Request, Token

if TYPE_CHECKING:
    from vlcompare.runtime.loading.model import Model


@dataclass
class Session:
    """What is kept of one picture on one side, so that another question does not encode it again.

    The first question fills it. "anew" starts from the snapshot after the image (image first) or from the image's
    features (instruction first); "continue" starts after the earlier question and answer. Beside a PictureCache, which
    keeps the image's part for all sides and questions, only what "continue" needs is kept here.
    """

    features: Tensor | None = None  # (1, P, D)
    snapshot: Any = None  # the state after the image's positions, where the image came first
    state: Any = None  # the state after everything so far
    turns: list[str] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)  # everything so far, answers included
    model: Callable[[], Model | None] = lambda: None  # a weak reference: a session keeps no weights in memory

    def keep(
        self, model: Model, features: Tensor | None, snapshot: Any, state: Any, prompt: Prompt, tokens: Sequence[Token]
    ) -> None:
        """Keep what a finished question leaves; one that was interrupted changes nothing."""
        self.model, self.features, self.snapshot, self.state = weakref.ref(model), features, snapshot, state
        self.turns = [*prompt.turns, "".join(token.text for token in tokens)]
        self.ids = [*prompt.ids, *(token.id for token in tokens)]

    def close(self) -> None:
        """Free the tensors."""
        self.features = self.snapshot = self.state = None
        self.model = lambda: None
        self.turns, self.ids = [], []


class Start(NamedTuple):
    """Where a question starts: the prompt as shown, the ids that the state does not hold, and what is known already."""

    prompt: Prompt
    new_ids: list[int]
    features: Tensor | None = None  # (1, P, D)
    state: Any = None
    picture: Any = None  # its key in a PictureCache, where there is one


def start(
    model: Model,
    request: Request,
    session: Session | None,
    follow_up: FollowUp | None,
    image: Any,
    pictures: PictureCache | None = None,
) -> Start:
    """Where this question starts. Raises RequestError where there is nothing to follow up with this model.

    image: where it is given, "anew" also works on a session that is empty or of another model. pictures: what is kept
    of it, and of others.
    """
    usable = session is not None and session.features is not None and session.model() is model
    if follow_up is None or (follow_up == "anew" and image is not None and (pictures is not None or not usable)):
        prompt = encode_prompt(model, request)
        if pictures is None:
            return Start(prompt, list(prompt.ids))
        picture, end = picture_key(image), image_end(model, prompt.turns)
        prefix = pictures.prefix(picture, model) if end else None
        return Start(prompt, list(prompt.ids[end if prefix else 0 :]), state=prefix, picture=picture)
    if session is None or session.state is None:
        raise RequestError("There is no earlier question to follow up: ask a first question on this picture.")
    if session.model() is not model:
        raise RequestError("A follow-up needs the same model as the first question: ask a first question again.")
    if follow_up == "anew":
        prompt = encode_prompt(model, request)
        if image_end(model, prompt.turns) and session.snapshot is not None:
            return Start(prompt, list(prompt.ids[session.snapshot.length :]), session.features, session.snapshot)
        if session.features is None:
            raise RequestError("The picture of the earlier question is not kept: give it again.")
        return Start(prompt, list(prompt.ids), session.features)
    turns = _continued(session.turns, request)
    ids = session.ids + encode_turns(model, turns)
    check_length(model, len(ids))
    prompt = Prompt((*session.turns, *turns), tuple(ids), request.prompt_order)
    return Start(prompt, ids[session.state.length :], session.features, session.state)


def _continued(earlier: Sequence[str], request: Request) -> list[str]:
    """The turns of another question in the same context: no second image, no instruction that is already there.

    This is how several questions on one picture were trained: the instruction once, then question and answer in turn.
    Of a chat only the new message: the others are in the context, and only the very first turn has a form of its own.
    """
    if SPECS[request.task].history:
        return list(build_turns(replace(request, history=(("", ""),)))[-1:])
    new = [turn for turn in build_turns(request) if turn != IMAGE_MARK]
    return new[1:] if len(new) > 1 and new[0] in earlier else new
