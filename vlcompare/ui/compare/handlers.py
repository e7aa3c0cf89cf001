"""The compare tab's actions: plain generators from form values to updates of the page's regions.

They take the run, the engine's interface and the operator's settings, and no component of gradio, so that tests need no
server.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from vlcompare.errors import ImageError, RequestError, VLCompareError
from vlcompare.tasks.prompts import SPECS
from vlcompare.types import SIDES, Request, Side
from vlcompare.ui.compare import cards, figures, views
from vlcompare.ui.compare.event_stream import PACE, Compare, follow
from vlcompare.ui.compare.example_questions import find_example, recorded_for, recorded_run, same_picture, same_question
from vlcompare.ui.compare.forms import (
    AskForm,
    about,
    ask_form_of,
    read_mode,
    read_request,
    read_side,
    shown_side,
)
from vlcompare.ui.compare.page_update import CompareUpdate, error_update, news
from vlcompare.ui.compare.session import Caches, CompareSession, Picture, Run, SideRun
from vlcompare.ui.examples import Example
from vlcompare.ui.server.concurrency import idle_of_call
from vlcompare.ui.server.uploads import read_file
from vlcompare.ui.settings import AppSettings

CHART_PACE = 0.4  # seconds between two drawings of the charts while the answers stream
FOLLOW_TASKS = tuple(name for name, spec in SPECS.items() if not spec.choices and not spec.box)


def open_picture(data: bytes) -> Any:
    """`runtime.image.open_image`, imported at the first picture. How many bytes are taken is the reader's to check."""
    from vlcompare.runtime.image import ImageLimits, open_image

    return open_image(data, ImageLimits(max_bytes=len(data)))


def engine_sessions(run: Run) -> dict[str, Any]:
    """A new engine session for each side, which keeps the picture's cache or state for follow-ups."""
    from vlcompare.runtime.session import Session

    return {side: Session() for side in run.sides}


def picture_cache() -> Any:
    """What one tab keeps of its pictures."""
    from vlcompare.runtime.picture_cache import PictureCache

    return PictureCache()


@dataclass
class Handlers:
    """The compare tab's actions.

    compare: `vlcompare.compare`, or a fake; pool: the loaded models; engine_sessions: makes what keeps caches
    between calls, where they outlive a call; picture_cache: likewise what a tab keeps of its pictures.
    """

    settings: AppSettings
    compare: Compare
    pool: Any = None
    open_image: Callable[[bytes], Any] = open_picture
    engine_sessions: Callable[[Run], dict[str, Any]] = lambda run: {}
    picture_cache: Callable[[], Any] = lambda: None
    caches: Caches = field(default_factory=Caches)
    explains: bool = True  # whether models run outside of `compare`, too: not where each call has to ask for a GPU

    def ask(
        self,
        session: CompareSession,
        image: str | None,
        form: AskForm,
        sides: Mapping[str, Side],
        *,
        blind: bool = False,
        example: str | None = None,
    ) -> Iterator[CompareUpdate]:
        """One comparison, from the click to the last figure."""

        def run() -> Run:
            request, picture = read_request(form, self.settings.limits), self.read_picture(image)
            shown = self.read_sides(sides, blind)
            return self.new_run(request, picture, shown, form.mode, blind, find_example(example))

        return self._play_all(session, lambda: [run()])

    def follow_up(self, session: CompareSession, text: str, how: str, task: str = "") -> Iterator[CompareUpdate]:
        """Ask again on the picture of the last run without encoding it again: "continue" or "anew".

        task: another task that takes a text at most; empty: the last one's, or a question where that takes no text.
        """
        return self._play_all(session, lambda: [self._follow_up_run(session, text, how, task)])

    def three(
        self,
        session: CompareSession,
        image: str | None,
        forms: Sequence[tuple[AskForm, str]],
        sides: Mapping[str, Side],
        *,
        blind: bool = False,
        example: str | None = None,
    ) -> Iterator[CompareUpdate]:
        """Several questions (caption, question, box) on one picture, in turn; each is a run of the history.

        forms: each question, with the id of the field that an error in it is about.
        """

        def runs() -> list[Run]:
            picture, shipped = self.read_picture(image), find_example(example)
            shown = self.read_sides(sides, blind)  # the same side for all of them, if they are shuffled
            found = []
            for form, name in forms:
                try:
                    request = read_request(form, self.settings.limits)
                except RequestError as error:
                    error.field = name
                    raise
                found.append(self.new_run(request, picture, shown, form.mode, blind, shipped))
            for run in found:
                run.group = found[0].id
            return found

        return self._play_all(session, runs)

    def _follow_up_run(self, session: CompareSession, text: str, how: str, task: str) -> Run:
        last = session.shown
        if last is None or not last.done or last.recorded:
            raise RequestError("There is nothing to follow up: press Compare first.")
        if how not in ("continue", "anew"):
            raise RequestError("A follow-up either continues or asks anew.")
        if how == "continue" and (session.kept is None or session.kept.id != last.id):
            raise RequestError("The earlier question's cache is gone: ask anew, which reads the picture again.")
        if task not in ("", *FOLLOW_TASKS):
            raise RequestError("Follow-ups take a text at most: for choices and regions ask a new question.")
        same = last.request.task if last.request.task in FOLLOW_TASKS and SPECS[last.request.task].text else "vqa"
        try:
            request = read_request(AskForm(task or same, text, mode=last.mode), self.settings.limits)
        except RequestError as error:
            error.field = "vl-follow-text"
            raise
        # checked again: an imported run may name checkpoints that this server does not open
        sides = {
            name: SideRun(read_side(shown_side(part.settings), self.settings)) for name, part in last.sides.items()
        }
        # the models of a blind run stay hidden until a vote
        return Run(request, last.picture, sides, last.mode, follow_up=how, example=last.example, blind=last.hidden)

    def _play_all(self, session: CompareSession, make: Callable[[], list[Run]]) -> Iterator[CompareUpdate]:
        """Make the runs and play them one after the other, until one is stopped. Blind ones have the same sides: once
        the names are told, they are told of those to come."""
        try:
            runs = make()
        except VLCompareError as error:
            yield error_update(error)
            return
        for index, run in enumerate(runs):
            run.blind = run.blind and all(earlier.hidden for earlier in runs[:index])
            yield from self.play(session, run)
            if run.stopped or session.current is not run:
                return

    def play(self, session: CompareSession, run: Run) -> Iterator[CompareUpdate]:
        """Run `run` in the session and show it as it grows, unless another run is shown meanwhile."""
        cancel = session.start(run)
        sent: CompareUpdate = {}
        seen = session.changes
        try:
            page = news(sent, views.opening(session, run))
            # a question that was not asked with the form's own fields moves them along
            yield page | {"asks": ask_form_of(run.request, run.mode)} if run.follow_up or run.group else page
            drawn = 0.0
            for changed in follow(run, lambda: self._begin(session, run, cancel), cancel):
                if run.blind and run.failed:  # its error names the model
                    session.reveal(run)
                if not session.shows(run):
                    yield {}
                    continue
                if session.changes != seen:  # the sides were exchanged: what was sent is not what is there
                    seen, changed = session.changes, set(run.sides)
                    sent = {}
                page = views.changes(session, run, changed)
                if time.monotonic() - drawn > CHART_PACE and not run.hidden:
                    page.setdefault("charts", figures.charts(run))
                    drawn = time.monotonic()
                yield news(sent, page)
            session.remember(run)
        finally:  # also where the stream is closed, by Stop or because the client disconnected
            cancel.set()
            if session.current is run:
                session.kept = run if session.engines else None
                self.caches.keep(session, self.settings.limits.kept_caches)
            session.finish(run)
        if session.current is not run:  # a newer run is shown
            return
        if session.shown is not run:  # what is looked at stays
            shown = session.shown.id if session.shown else None
            yield {"state": views.state(session), "history": cards.history_view(session.history, shown)}
            return
        while session.shown is run:  # again, if the sides were exchanged while this was on its way
            if session.changes != seen:
                sent = {}
            seen = session.changes
            yield news(sent, views.ended(session, run))  # only what was not sent yet: pictures are large
            if session.changes == seen:
                return

    def stopped(self, session: CompareSession) -> CompareUpdate:
        """After Stop: the run as far as it came, or that nothing was running; {} where another was asked for since."""
        if session.asked > session.asked_at_stop:  # this call comes a while after the press: it does not end that one
            return {}
        run, finished, stopped = session.current, session.finished, session.stop()
        finished.wait(5)
        if session.current is not run:  # a newer run is shown
            return {}
        if run is None or not (stopped or run.done):
            return {"state": views.state(session), "message": cards.message("Stopped before it began.")}
        if run.done:
            session.remember(run)
        if session.shown is not run:
            return {"state": views.state(session)}
        cut = run.repeats is not None and len(run.repeats.rounds) < run.repeats.asked
        nothing = "" if run.stopped or cut else "Nothing is running: what is shown had ended before."
        return {**views.ended(session, run), "message": cards.message(nothing)}

    def restore(self, session: CompareSession, run_id: str) -> CompareUpdate:
        """A run of the history, shown again."""
        run = session.find(str(run_id))
        if run is None:
            return {"message": cards.message("This run is no longer kept: the history is bounded.", "error")}
        return self.show(session, run)

    def show(self, session: CompareSession, run: Run, sentence: str = "") -> CompareUpdate:
        """Show a run that has ended, wherever it comes from, with a sentence about it."""
        session.show(run)
        return {**views.whole(session, run), "message": cards.message(sentence)}

    def swap(self, session: CompareSession) -> CompareUpdate:
        """Exchange the sides of what is shown: answers, boxes, verdicts and caches go with their settings."""
        session.swap()
        return views.whole(session, session.shown) if session.shown else {}

    def recorded(
        self, session: CompareSession, example: Example, sides: Mapping[str, Side], *, blind: bool = False
    ) -> CompareUpdate:
        """An example's recorded answers, if they were recorded with what is chosen for both sides; else no change.

        blind: none, since the models answer the same again.
        """
        if session.cancel or blind:
            return {}
        try:
            settings = {side: read_side(sides[side], self.settings) for side in SIDES}
            if not recorded_for(example, settings):
                return {}
            picture = self.read_picture(str(example.image))
        except VLCompareError:  # what is wrong with a setting is said when it is used
            return {}
        return self.show(session, recorded_run(example, picture, settings))

    # ---- making a run

    def read_picture(self, image: str | None) -> Picture:
        """The uploaded picture, checked before it is decoded. Raises ImageError or RequestError."""
        with about("vl-picture"):
            if not image:
                raise ImageError("There is no picture: upload one, paste one, or choose an example.")
            data = read_file(image, self.settings.limits.file_bytes, "picture")
            return Picture.of(self.open_image(data), data)

    def read_sides(self, forms: Mapping[str, Side], blind: bool) -> dict[str, Side]:
        """Both sides' settings, checked; shuffled if they are to be blind."""
        settings = [read_side(forms[side], self.settings, side) for side in SIDES]
        if blind:
            random.SystemRandom().shuffle(settings)
        return dict(zip(SIDES, settings, strict=True))

    def new_run(
        self,
        request: Request,
        picture: Picture,
        sides: Mapping[str, Side],
        mode: str,
        blind: bool,
        example: Example | None,
    ) -> Run:
        """A run of these sides, as `read_sides` gives them."""
        shown = example if example and same_picture(example, picture) else None
        known = shown if shown and same_question(shown, request) else None
        return Run(
            request=replace(request, seed=0),
            picture=picture,
            sides={side: SideRun(own) for side, own in sides.items()},
            mode=read_mode(mode),
            truth=known.truth if known else (),
            references=known.references if known else (),
            objects=shown.objects if shown else (),
            example=shown.id if shown else None,
            blind=blind,
        )

    def events(
        self,
        run: Run,
        cancel: threading.Event,
        engines: Mapping[str, Any],
        follow_up: str | None = None,
        pictures: Any = None,
    ) -> Iterator[Any]:
        """The comparison's events. engines: each side's engine session; follow_up: how to go on from it."""
        how: dict[str, Any] = {"follow_up": follow_up} if follow_up else {}
        how |= {} if pictures is None else {"pictures": pictures}
        return self.compare(
            run.picture.data,
            run.request,
            {side: part.settings for side, part in run.sides.items()},
            mode=run.mode,
            pool=self.pool,
            cancel=cancel,
            deadline=self.settings.limits.seconds,
            sessions=engines,
            tick=PACE,
            idle=idle_of_call(),
            **how,
        )

    def _begin(self, session: CompareSession, run: Run, cancel: threading.Event) -> Iterator[Any]:
        """The events of `run`; a follow-up uses the session's caches if they belong to its picture and sides."""
        if session.pictures is None:
            session.pictures = self.picture_cache()
        kept = session.kept
        same = kept is not None and kept.picture.data == run.picture.data and kept.settings == run.settings
        if run.follow_up is not None and same:
            return self.events(run, cancel, session.engines, run.follow_up, session.pictures)
        session.forget_follow_ups()
        session.engines = self.engine_sessions(run)
        return self.events(run, cancel, session.engines, pictures=session.pictures)
