"""What happens when a visitor asks: plain generators from form values to regions of the page.

A handler yields `Page`: a dictionary from a region's name to its new markup; regions that are left out stay as they
are. Knows the run, the engine's interface and the operator's settings; knows nothing of gradio, so tests need no
server.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from vlcompare.errors import ImageError, RequestError, VLCompareError
from vlcompare.tasks.boxes import format_box
from vlcompare.tasks.prompts import SPECS
from vlcompare.types import SIDES, Box, Request
from vlcompare.ui.checkpoint_names import name_of, scores_table
from vlcompare.ui.compare import cards, figures, together
from vlcompare.ui.compare.event_stream import Compare, follow
from vlcompare.ui.compare.forms import AskForm, SideForm, read_mode, read_request, read_side, side_form_of
from vlcompare.ui.compare.picture import side_picture
from vlcompare.ui.compare.session import Caches, Picture, Run, Session, SideRun
from vlcompare.ui.examples import Example, load_examples
from vlcompare.ui.server.uploads import read_file
from vlcompare.ui.settings import AppSettings

Page = dict[str, Any]
REGIONS = (
    "message",
    "three",
    *(f"{side}_{part}" for side in SIDES for part in ("card", "picture", "tokens")),
    "together",
    "figures",
    "charts",
    "prompts",
    "scores",
    "history",
)
CHART_PACE = 0.4  # seconds between two drawings of the charts while the answers stream
FOLLOW_TASKS = tuple(name for name, spec in SPECS.items() if not spec.choices and not spec.box)


@dataclass
class Handlers:
    """The page's actions. `compare` is the package's own, or a fake; `pool` keeps the models."""

    settings: AppSettings
    compare: Compare
    pool: Any = None
    open_image: Callable[..., Any] | None = None
    engine_sessions: Callable[[Run], dict[str, Any]] = field(default=lambda run: nothing_kept(run))
    caches: Caches = field(default_factory=Caches)

    def ask(
        self,
        session: Session,
        image: str | None,
        form: AskForm,
        sides: Mapping[str, SideForm],
        *,
        blind: bool = False,
        example: str | None = None,
    ) -> Iterator[Page]:
        """One comparison: everything from the click to the last figure."""
        try:
            request = read_request(form, self.settings.limits)
            run = self.new_run(request, self.read_picture(image), sides, form.mode, blind, find_example(example))
        except VLCompareError as error:
            yield {"message": cards.message(str(error), "error")}
            return
        yield from self.play(session, run)

    def follow_up(self, session: Session, text: str, how: str, task: str = "") -> Iterator[Page]:
        """Ask again on the picture of the last run without encoding it again: "continue" or "anew".

        task: another task that takes a text at most; empty: the last one's, or a question where that takes no text.
        """
        last = session.current
        try:
            if last is None or not last.done:
                raise RequestError("There is nothing to follow up: compare something first.")
            if how not in ("continue", "anew"):
                raise RequestError("A follow-up either continues or asks anew.")
            if how == "continue" and (session.kept is None or session.kept.id != last.id):
                raise RequestError("The earlier question's cache is gone: ask anew, which reads the picture again.")
            if task not in ("", *FOLLOW_TASKS):
                raise RequestError("Follow-ups take a text at most: for choices and regions ask a new question.")
            same = last.request.task if last.request.task in FOLLOW_TASKS and SPECS[last.request.task].text else "vqa"
            form = AskForm(task or same, text, mode=last.mode)
            request = read_request(form, self.settings.limits)
            # read again: a run that was imported may name what this server does not open
            sides = {name: self._reread(part) for name, part in last.sides.items()}
        except VLCompareError as error:
            yield {"message": cards.message(str(error), "error")}
            return
        hidden = last.hidden  # the models of a blind run stay so until a vote
        run = Run(request, last.picture, sides, last.mode, follow_up=how, example=last.example, blind=hidden)
        yield from self.play(session, run)

    def three(
        self,
        session: Session,
        image: str | None,
        forms: Sequence[AskForm],
        sides: Mapping[str, SideForm],
        *,
        example: str | None = None,
    ) -> Iterator[Page]:
        """One picture, three questions (caption, question, box) one after the other; each is a run of the history."""
        try:
            picture, shipped = self.read_picture(image), find_example(example)
            runs = [
                self.new_run(read_request(form, self.settings.limits), picture, sides, form.mode, False, shipped)
                for form in forms
            ]
            for run in runs:
                run.group = runs[0].id
        except VLCompareError as error:
            yield {"message": cards.message(str(error), "error")}
            return
        for run in runs:
            yield from self.play(session, run)
            if any(answer and answer.stop_reason == "cancelled" for answer in map(run.answer, run.sides)):
                return

    def play(self, session: Session, run: Run) -> Iterator[Page]:
        """Run `run` in the session and show it as it grows; what else the visitor looks at meanwhile is left alone."""
        cancel = session.start(run)
        sent: Page = {}
        try:
            yield news(sent, self.opening(session, run))
            drawn = 0.0
            for changed in follow(run, lambda: self._begin(session, run, cancel), cancel):
                if not session.shows(run):
                    yield {}
                    continue
                page = self.changes(session, run, changed)
                if time.monotonic() - drawn > CHART_PACE and not run.hidden:
                    page.setdefault("charts", figures.charts(run))
                    drawn = time.monotonic()
                yield news(sent, page)
            session.remember(run)
        finally:  # also where the stream was closed, by Stop or by a visitor who left
            cancel.set()
            if session.current is run:
                session.kept = run if session.engines else None
                self.caches.keep(session, self.settings.limits.kept_caches)
            session.finish(run)
        if session.current is not run:  # a newer run has the page by now
            return
        # everything where another run was looked at meanwhile; else what has not been sent: pictures are large
        shown = self.whole(session, run)
        yield shown if session.looked_elsewhere else news(sent, shown)

    def stopped(self, session: Session) -> Page:
        """What is shown after Stop: the run as far as it came, or that there was nothing to stop."""
        run, finished, stopped = session.current, session.finished, session.stop()
        finished.wait(5)
        if session.current is not run:  # a newer run has the page by now
            return {}
        if run is None or not (stopped or run.done):
            return {"message": cards.message("Stopped before it began.")}
        if run.done:
            session.remember(run)
        cut = any(answer and answer.stop_reason == "cancelled" for answer in map(run.answer, run.sides))
        said = "Stopped. What had come in stays." if cut else "Nothing is running: what is shown had ended before."
        return {**self.whole(session, run), "message": cards.heading(run, said)}

    def restore(self, session: Session, run_id: str) -> Page:
        """A run of the history, shown again."""
        run = session.find(str(run_id))
        if run is None:
            return {"message": cards.message("This run is no longer kept: the history is bounded.", "error")}
        if session.cancel is None:
            session.current = run
        session.looked_elsewhere = True
        return self.whole(session, run)

    def recorded(self, session: Session, example: Example, sides: Mapping[str, SideForm]) -> Page:
        """An example's recorded answers, where they are those of the chosen checkpoints; else nothing changes."""
        plain = all(
            (form.quantization, form.prompt_order, form.image_size or None) == ("none", "image_first", None)
            for form in sides.values()
        )
        asked = {side: sides[side].checkpoint for side in SIDES}
        if session.cancel or not plain or {s: a.checkpoint for s, a in example.answers.items()} != asked:
            return {}
        try:
            picture = self.read_picture(str(example.image))
        except VLCompareError:
            return {}
        request = Request(example.task, example.text, example.choices or None, example.box, example.ocr_text or None)
        parts = {
            side: SideRun(read_side(sides[side], self.settings), "", answer=example.answers[side]) for side in SIDES
        }
        run = Run(request, picture, parts, truth=example.truth, references=example.references, example=example.id)
        session.current = None  # nothing was run: there is nothing to vote on or to follow up
        page = self.opening(session, run)
        said = "Recorded answers of this pair: press Compare to run it here, with all figures."
        return {
            **page,
            "message": cards.heading(run, said, "info"),
            "figures": cards.blank("figures"),
            "charts": cards.blank("charts"),
        }

    # ---- pages

    def opening(self, session: Session, run: Run) -> Page:
        """The page as it stands when a run begins: empty cards over the new picture."""
        page: Page = {f"{side}_{part}": view for side in run.sides for part, view in self._side(run, side).items()}
        page |= {
            "message": cards.heading(run, self.notice(run)),
            "three": together.three_view(session.group(run), run.id),
            "together": together.together(run),
            "figures": figures.figures_table(run),
            "charts": figures.charts(run),
        }
        return page

    def changes(self, session: Session, run: Run, changed: set[str]) -> Page:
        """Only what has changed: the text while it streams, a side's pictures and figures once it has answered."""
        page: Page = {f"{side}_card": cards.card(run, side) for side in changed}
        finished = [side for side in changed if run.answer(side) is not None]
        for side in finished:
            page |= {f"{side}_{part}": view for part, view in self._side(run, side).items()}
        if finished:
            page |= {
                "three": together.three_view(session.group(run), run.id),
                "together": together.together(run),
                "figures": figures.figures_table(run),
                "charts": figures.charts(run),
            }
        return page

    def whole(self, session: Session, run: Run) -> Page:
        """Every region for a run that is over, or restored."""
        page = self.opening(session, run)
        page["prompts"] = cards.prompt_view(run)
        page["history"] = cards.history_view(session.history, run.id)
        checkpoints = [part.settings.checkpoint for part in run.sides.values()]
        if len(checkpoints) == 2 and not run.hidden:
            page["scores"] = scores_table(*checkpoints)
        return page

    def notice(self, run: Run) -> str:
        """A sentence where an embedded model is asked about a picture that is none of the project's own."""
        embedded = any(name_of(part.settings.checkpoint).embedded for part in run.sides.values())
        return cards.PHOTO_NOTICE if embedded and run.example is None else ""

    @staticmethod
    def _side(run: Run, side: str) -> Page:
        return {
            "card": cards.card(run, side),
            "picture": side_picture(run, side) if together.has_boxes(run) else together.no_boxes(run, side),
            "tokens": cards.tokens_view(run, side),
        }

    # ---- making a run

    def read_picture(self, image: str | None) -> Picture:
        """Open the visitor's picture at the project's own door, which checks it before decoding."""
        if not image:
            raise ImageError("There is no picture: upload one, paste one, or choose an example.")
        data = read_file(image, self.settings.limits.file_bytes, "picture")
        return Picture.of((self.open_image or door())(data), data)

    def new_run(
        self,
        request: Request,
        picture: Picture,
        forms: Mapping[str, SideForm],
        mode: str,
        blind: bool,
        example: Example | None,
    ) -> Run:
        """A run with its sides read; in a blind run they are shuffled."""
        settings = [read_side(forms[side], self.settings) for side in SIDES]
        if blind:
            import random

            random.SystemRandom().shuffle(settings)
        same = example is not None and same_question(example, request) and same_picture(example, picture)
        return Run(
            request=replace(request, seed=0),
            picture=picture,
            sides={side: SideRun(own) for side, own in zip(SIDES, settings, strict=True)},
            mode=read_mode(mode),
            truth=example.truth if example and same else (),
            references=example.references if example and same else (),
            example=example.id if example and same_picture(example, picture) else None,
            blind=blind,
        )

    def _reread(self, part: SideRun) -> SideRun:
        return SideRun(read_side(side_form_of(part.settings), self.settings))

    def events(
        self, run: Run, cancel: threading.Event, engines: Mapping[str, Any], follow_up: str | None = None
    ) -> Iterator[Any]:
        """The comparison's events. engines: what is kept of each side; follow_up: how to go on from it."""
        how = {"follow_up": follow_up} if follow_up else {}
        return self.compare(
            run.picture.data,
            run.request,
            {side: part.settings for side, part in run.sides.items()},
            mode=run.mode,
            pool=self.pool,
            cancel=cancel,
            deadline=self.settings.limits.seconds,
            sessions=engines,
            **how,
        )

    def _begin(self, session: Session, run: Run, cancel: threading.Event) -> Iterator[Any]:
        """The events of `run`, going on from the session's caches where they are those of its picture and sides."""
        kept = session.kept
        same = kept is not None and kept.picture.data == run.picture.data and kept.settings == run.settings
        if run.follow_up is not None and same:
            return self.events(run, cancel, session.engines, run.follow_up)
        session.forget_follow_ups()
        session.engines = self.engine_sessions(run)
        return self.events(run, cancel, session.engines)


def news(sent: Page, page: Page) -> Page:
    """What of `page` differs from what was `sent` before, which takes it over."""
    new = {name: view for name, view in page.items() if sent.get(name) != view}
    sent.update(new)
    return new


def door() -> Callable[..., Any]:
    """The project's one door for pictures; imported at the first picture."""
    from vlcompare.runtime.image import open_image

    return open_image


def engine_sessions(run: Run) -> dict[str, Any]:
    """Empty places for what the engine keeps of this picture on each side."""
    from vlcompare.runtime.engine import Session as EngineSession

    return {side: EngineSession() for side in run.sides}


def nothing_kept(run: Run) -> dict[str, Any]:
    """Where caches do not outlive a call."""
    return {}


def find_example(example_id: str | None) -> Example | None:
    """The shipped example of this id."""
    return next((example for example in load_examples() if example.id == example_id), None) if example_id else None


def same_question(example: Example, request: Request) -> bool:
    """Whether the request still asks what the example's truth answers (boxes to two decimals, as they are asked)."""
    return (example.task, example.text.strip(), _plain(example.choices), _plain([example.box])) == (
        request.task,
        request.text.strip(),
        _plain(request.choices or ()),
        _plain([request.box]),
    )


def _plain(values: Sequence[Any]) -> list[str]:
    return [format_box(value) if isinstance(value, Box) else str(value).strip() for value in values]


def same_picture(example: Example, picture: Picture) -> bool:
    """Whether the picture is still the example's."""
    return picture.data == example.image.read_bytes()
