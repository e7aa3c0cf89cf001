"""The page's actions as plain generators: what is yielded, what is kept, what is refused. No server, no models."""

from __future__ import annotations

import copy
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ui_fakes import FakeCompare, last, png, until, words, write_examples

from vlcompare.comparison import Event
from vlcompare.errors import ImageError, RequestError
from vlcompare.runtime.image import open_image
from vlcompare.types import SIDES, Answer, Box, Request, Side
from vlcompare.ui import examples
from vlcompare.ui.compare.belonging import settings_line
from vlcompare.ui.compare.event_stream import follow
from vlcompare.ui.compare.form_values import ASK_FIELDS, TEXT_FIELDS, read_form
from vlcompare.ui.compare.forms import (
    SIDE_FIELDS,
    AskForm,
    allowed_checkpoint,
    ask_form_of,
    may_be_folder,
    read_request,
    read_side,
    shown_side,
)
from vlcompare.ui.compare.handlers import Handlers, picture_cache
from vlcompare.ui.compare.page_update import REGIONS
from vlcompare.ui.compare.session import CompareSession, Picture, Run, SideRun
from vlcompare.ui.compare.wiring.settings import check_picture
from vlcompare.ui.compare.wiring.tab import three_forms
from vlcompare.ui.settings import AppSettings, Limits

PAIR = {"left": Side("tiny-pythia-vl"), "right": Side("tiny-mamba-vl")}
FIND = AskForm("grounding", "the large red square")


@pytest.fixture(autouse=True)
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a test writes counts as uploaded."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(examples, "FOLDER", write_examples(tmp_path / "examples"))
    return tmp_path / "examples" / "scene.png"


def test_a_file_that_is_no_picture_is_refused_when_it_is_chosen(
    handlers: Handlers, picture: str, tmp_path: Path
) -> None:
    session = CompareSession()
    found, refusal = check_picture(session, picture, 1 << 20)
    assert found == hashlib.sha256(png()).hexdigest() and refusal == ""
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"%PDF-1.7 " + png())
    found, refusal = check_picture(session, str(broken), 1 << 20)
    assert found and refusal.endswith(".") and "\n" not in refusal
    assert check_picture(session, None, 1 << 20) == (None, "")


def test_a_run_fills_every_region_and_the_history(handlers: Handlers, picture: str) -> None:
    session = CompareSession()
    page = last(handlers.ask(session, picture, FIND, PAIR))
    assert set(page) >= set(REGIONS)
    assert "0.10" in page["left_card"] and "Mamba" in page["right_card"]
    assert [run.request.text for run in session.history] == ["the large red square"]
    assert session.cancel is None and session.finished.is_set()


def test_the_truth_belongs_to_the_question_that_was_asked(handlers: Handlers, shipped: Path) -> None:
    session = CompareSession()
    page = last(handlers.ask(session, str(shipped), FIND, PAIR, example="find"))
    assert "✓ IoU 0.89" in words(page["left_card"]) and session.history[0].truth
    other = last(handlers.ask(session, str(shipped), replace(FIND, text="the disc"), PAIR, example="find"))
    assert session.history[0].truth == () and "vl-verdict" not in other["left_card"]
    handlers_picture = Path(shipped).with_name("other.png")
    handlers_picture.write_bytes(png())
    last(handlers.ask(session, str(handlers_picture), FIND, PAIR, example="find"))
    assert session.history[0].truth == () and session.history[0].example is None


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (AskForm("grounding", ""), "needs a description"),
        (AskForm("juggling", "x"), "Unknown task"),
        (AskForm("vqa", "x" * 5000), "5,000 characters"),
        (AskForm("multiple_choice", "which?", choices="one"), "2 to 26 choices"),
        (AskForm("multiple_choice", "which?", choices="\n".join(map(str, range(27)))), "2 to 26 choices"),
        (AskForm("pointing", "which?", choices="0,0,1,1\n0.5,0.5,0.1,0.1"), "choice 2"),
        (AskForm("region_description", box=""), "Mark the region"),
        (AskForm("region_description", box="0.1 0.2 nan 1"), "cannot be read"),
        (AskForm("grounding", "x", mode="gallop"), "gallop"),
    ],
)
def test_what_cannot_be_asked_is_said(handlers: Handlers, picture: str, form: AskForm, said: str) -> None:
    session = CompareSession()
    (page,) = handlers.ask(session, picture, form, PAIR)
    assert said in page["message"] and set(page) == {"message"}
    assert handlers.compare.asked == []  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("side", "said"),
    [
        (Side(""), "no checkpoint"),
        (Side("/etc"), "operator allows"),
        (Side("../checkpoints/x"), "operator allows"),
        (Side("~/models"), "operator allows"),
        (Side("http://127.0.0.1/x"), "operator allows"),
        (Side("vlcompare"), "neither"),  # whether or not there is a folder of that name beside the server
        (Side("a b"), "neither"),
        (Side("x/y", "int2"), "quantization"),
        (Side("x/y", prompt_order="sideways"), "prompt order"),
        (Side("x/y", device="tpu"), "device"),
        (Side("x/y", max_new_tokens=100_000), "between 1 and 512"),
        (Side("x/y", temperature="hot"), "must be a number"),
        (Side("x/y", image_size=1e9), "resolution"),
    ],
)
def test_limits_hold_inside(side: Side, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vlcompare").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match=said):
        read_side(side, AppSettings())


def test_folders_only_below_the_allowed_path(tmp_path: Path) -> None:
    (tmp_path / "models" / "mine").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    settings = AppSettings(allow_path=tmp_path / "models")
    assert allowed_checkpoint("mine", settings) == str(tmp_path / "models" / "mine")
    assert allowed_checkpoint(str(tmp_path / "models" / "mine"), settings).endswith("mine")
    for name in ("../secret", str(tmp_path / "secret"), "mine/../../secret"):
        with pytest.raises(RequestError):
            allowed_checkpoint(name, settings)
    assert allowed_checkpoint("./own", AppSettings(left="./own")) == "./own"  # the operator's own
    only = AppSettings(offered=("tiny-pythia-vl",))
    with pytest.raises(RequestError, match="not offered"):
        allowed_checkpoint("gpantaz/other", only)


def test_a_refusal_of_a_path_probes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = tmp_path / "models"
    (allowed / "mine").mkdir(parents=True)
    (tmp_path / "secret" / "closed").mkdir(parents=True)
    (allowed / "file").write_text("")
    (allowed / "out").symlink_to(tmp_path / "secret")
    (allowed / "circle").symlink_to(allowed / "circle")
    inside = ["mine/../file", "./absent", "./out", "out/closed/..", "./circle", "./" + "a" * 300, str(allowed / "file")]
    outside = [str(tmp_path / "secret"), str(tmp_path / "absent"), "/" + "a" * 5000, "../secret", "../absent", "/"]
    outside += ["~", "~/absent", "~root", "~root/x", "~no-such-user", "~no-such-user/x", "file:///etc", "C:\\Users"]
    outside += ["https://huggingface.co/a/b", "https://127.0.0.1:1/a", "//host/share", "a/b/../../c", "hf://a/b"]
    outside += ["..", "."]
    for settings in (AppSettings(allow_path=allowed), AppSettings()):
        said = set()
        for name in [*inside, *outside]:
            with pytest.raises(RequestError) as error:
                allowed_checkpoint(name, settings)
            said.add(str(error.value))
        assert said == {"Folders on the server are only opened below the path that its operator allows."}
    looked_up: list[str] = []
    real = os.lstat
    monkeypatch.setattr(os, "lstat", lambda path, **how: looked_up.append(str(path)) or real(path, **how))
    for name in outside:
        with pytest.raises(RequestError):
            allowed_checkpoint(name, AppSettings(allow_path=allowed))
    paths = {Path(path) for path in looked_up}
    assert all(path.is_relative_to(allowed) or path in allowed.parents for path in paths)


def test_only_what_the_operator_named_or_allowed_may_be_a_folder(tmp_path: Path) -> None:
    mine = tmp_path / "models" / "mine"
    mine.mkdir(parents=True)
    settings = AppSettings(left="./own", preload=("other",), allow_path=tmp_path / "models")
    for name in ("./own", "other", allowed_checkpoint("mine", settings)):
        assert may_be_folder(name, settings)
    outside = (str(tmp_path), str(mine / ".." / ".." / "models"))
    for name in ("mine", "owner/name", "finetuned_mambavl_790m", ".", *outside):
        assert not may_be_folder(name, settings)


@pytest.mark.parametrize("value", [True, 1e308, ["x"], {"a": 1}, None])
def test_what_is_no_text_in_a_sides_fields_is_none(value: Any) -> None:
    """Whatever a program sends in place of a text, the page says the same as of an empty field."""
    own = [value if name in TEXT_FIELDS else None for name in SIDE_FIELDS]
    _, sides = read_form([*("" for _ in ASK_FIELDS), *own, *own])
    assert {side.checkpoint for side in sides.values()} == {""} and settings_line(sides["left"]).startswith("No model")
    with pytest.raises(RequestError, match="The quantization is one of"):
        read_side(sides["right"], AppSettings())


def test_forms_and_requests_are_inverse() -> None:
    for form in (
        AskForm("pointing", "Which?", "0.10, 0.20, 0.30, 0.40\n0.50, 0.50, 0.60, 0.70"),
        AskForm("multiple_choice", "Which?", "a\nb", ocr_text="seen"),
        AskForm("region_description", box="0.10, 0.20, 0.30, 0.40"),
        AskForm("chat", "hello"),
    ):
        assert ask_form_of(read_request(form, Limits())) == form
    side = Side("x/y", "nf4", "instruction_first", 224, "cpu", "auto", 7, 0.5, 0.9, 40, 3)
    assert shown_side(read_side(side, AppSettings())) == side


def test_pictures_are_refused_before_they_are_decoded(handlers: Handlers, tmp_path: Path) -> None:
    small = replace(handlers, settings=AppSettings(limits=Limits(file_bytes=100)))
    path = tmp_path / "big.png"
    path.write_bytes(png((1, 2, 3), (400, 300)))
    with pytest.raises(RequestError, match="The picture is larger than"):
        small.read_picture(str(path))
    path.write_bytes(b"not a picture")
    (page,) = handlers.ask(CompareSession(), str(path), FIND, PAIR)
    assert "vl-message-error" in page["message"]
    with pytest.raises(ImageError, match="no picture"):
        handlers.read_picture(None)


def test_a_picture_that_was_deleted_meanwhile_is_said(handlers: Handlers, tmp_path: Path) -> None:
    (page,) = handlers.ask(CompareSession(), str(tmp_path / "uploaded-an-hour-ago.png"), FIND, PAIR)
    assert "no longer kept" in page["message"] and str(tmp_path) not in page["message"]


def test_the_operators_limit_holds_where_the_task_has_a_larger_one(handlers: Handlers, picture: str) -> None:
    few = replace(handlers, settings=AppSettings(limits=Limits(new_tokens=3)))
    session = CompareSession()
    last(few.ask(session, picture, AskForm("chat", "a b c d e f g h"), PAIR))
    assert [len(part.answer.tokens) for part in session.history[0].sides.values() if part.answer] == [3, 3]
    assert read_request(AskForm("vqa", "what?"), Limits()).max_new_tokens is None  # the task's own is smaller


def test_one_side_fails_and_the_other_goes_on(handlers: Handlers, picture: str) -> None:
    page = last(handlers.ask(CompareSession(), picture, FIND, {**PAIR, "left": Side("broken/one")}))
    assert "cut off" in page["left_card"] and 'role="alert"' in page["left_card"]
    assert "0.10" in page["right_card"]


def run_of(checkpoint: str = "x", **more: Any) -> Run:
    shown = Picture.of(open_image(png()), png())
    sides = {side: SideRun(Side(checkpoint)) for side in SIDES}
    return Run(Request("chat", "hello"), shown, sides, **more)


def test_events_are_batched_but_the_last_of_a_burst_is_shown(handlers: Handlers) -> None:
    run, cancel, seen = run_of(), threading.Event(), []

    def events() -> Any:
        for index in range(200):
            yield Event("left", "status", str(index))
        for _ in range(6000):
            time.sleep(0.01)
            yield None
            if any("199" in value for value in seen):
                break
        else:
            raise AssertionError("the burst's end waited for the next event")
        for side in SIDES:
            yield Event(side, "answer", Answer(text="done"))

    for _ in follow(run, events, cancel, pace=0.02):
        seen.append(run.sides["left"].status)
    assert len(seen) < 30 and run.done


@pytest.mark.parametrize("where", ["before", "between"])
def test_an_unexpected_end_gives_both_sides_a_sentence(where: str) -> None:
    run = run_of()

    def events() -> Any:
        if where == "between":
            yield Event("left", "answer", Answer(text="fine"))
        raise RuntimeError("boom")

    for _ in follow(run, events, threading.Event()):
        pass
    assert "not foreseen" in (run.answer("right").error or "")  # type: ignore[union-attr]
    assert (run.answer("left").error is None) == (where == "between")  # type: ignore[union-attr]


def test_closing_the_page_stops_the_comparison(handlers: Handlers, picture: str) -> None:
    slow = FakeCompare(gap=0.05, words={"chat": ["word "] * 500})
    pages = replace(handlers, compare=slow).ask(CompareSession(), picture, AskForm("chat", "go"), PAIR)
    next(pages)
    next(pages)
    pages.close()
    assert until(lambda: slow.running == 0)


def test_stop_fifty_times_at_the_third_token(handlers: Handlers, picture: str) -> None:
    session, threads = CompareSession(), threading.active_count()  # other tests' servers may have left some
    stepping = replace(handlers, compare=FakeCompare(gap=0.001, words={"chat": ["word "] * 100_0}))
    for _ in range(50):
        for _page in stepping.ask(session, picture, AskForm("chat", "go"), PAIR):
            run = session.current
            if run and len(run.sides["left"].steps) >= 3:
                session.stop()
        assert run and run.answer("left").stop_reason == "cancelled"  # type: ignore[union-attr]
        assert threading.active_count() < threads + 10
    assert len(session.history) == session.limits.history_runs


def test_the_session_is_bounded_and_nobody_elses(handlers: Handlers, picture: str) -> None:
    session = CompareSession(Limits(history_bytes=10_000))
    for text in ("one", "two", "three"):
        last(handlers.ask(session, picture, AskForm("chat", text), PAIR))
    assert [run.request.text for run in session.history][0] == "three"
    assert sum(run.size() for run in session.history) <= 10_000 or len(session.history) == 1
    other = copy.deepcopy(session)
    assert other.history == [] and other is not session
    session.close()
    assert session.history == [] and session.current is None


def test_history_restores_and_says_when_it_is_gone(handlers: Handlers, picture: str) -> None:
    session = CompareSession()
    last(handlers.ask(session, picture, AskForm("chat", "one"), PAIR))
    first = session.history[0]
    last(handlers.ask(session, picture, AskForm("chat", "two"), PAIR))
    assert "one said" in handlers.restore(session, first.id)["left_card"]
    assert "no longer kept" in handlers.restore(session, "nothing")["message"]


def test_a_newer_run_keeps_the_page_to_itself(handlers: Handlers, picture: str) -> None:
    session = CompareSession()
    older = handlers.ask(session, picture, AskForm("chat", "older"), PAIR)
    next(older)
    newer = handlers.ask(session, picture, AskForm("chat", "newer"), PAIR)
    page = next(newer)
    assert all(shown == {} for shown in older)
    page |= last(newer)
    assert "newer" in page["asked"] and "older" in page["history"]
    assert session.kept is None or session.kept is session.current


def test_what_else_is_looked_at_is_left_alone(handlers: Handlers, picture: str) -> None:
    session = CompareSession()
    last(handlers.ask(session, picture, AskForm("chat", "first"), PAIR))
    pages = handlers.ask(session, picture, AskForm("chat", "second"), PAIR)
    next(pages)
    handlers.restore(session, session.history[0].id)
    *meanwhile, end = pages
    assert meanwhile and all(page == {} for page in meanwhile)
    assert set(end) == {"state", "history"} and "second" in end["history"]
    assert session.shown is session.history[1] and session.cancel is None


def test_stop_claims_to_have_stopped_only_what_it_stopped(handlers: Handlers, picture: str) -> None:
    session = CompareSession()
    assert "before it began" in handlers.stopped(session)["message"]
    last(handlers.ask(session, picture, FIND, PAIR))
    assert "had ended before" in handlers.stopped(session)["message"]
    slow = replace(handlers, compare=FakeCompare(gap=0.05, words={"chat": ["word "] * 500}))
    pages = slow.ask(session, picture, AskForm("chat", "go"), PAIR)
    next(pages)
    session.stop()
    last(pages)
    card = slow.stopped(session)["left_card"]
    assert ">Stopped<" in card and "partial answer" not in card  # there was no word yet


def test_stop_does_not_speak_of_the_run_that_follows(handlers: Handlers, picture: str) -> None:
    """A side that is being loaded takes its time to end; the next question may be asked meanwhile."""
    session, said = CompareSession(), []
    older = handlers.ask(session, picture, AskForm("chat", "older"), PAIR)
    next(older)  # at work, and slow to end
    waiting = threading.Thread(target=lambda: said.append(handlers.stopped(session)))
    waiting.start()
    assert until(lambda: session.cancel is not None and session.cancel.is_set())
    newer = handlers.ask(session, picture, AskForm("chat", "newer"), PAIR)
    next(newer)
    waiting.join(60)
    assert said == [{}]
    last(newer)
    assert session.current and session.current.answer("left").stop_reason == "end"  # type: ignore[union-attr]
    last(older)


def test_stop_leaves_the_comparison_that_is_asked_for_before_its_last_call_arrives(
    handlers: Handlers, picture: str
) -> None:
    session = CompareSession()
    for _ in range(2):
        session.next_asked()
        older = handlers.ask(session, picture, AskForm("chat", "older"), PAIR)
        next(older)
        session.stop_pressed()
        session.next_asked()
        last(older)
        newer = handlers.ask(session, picture, AskForm("chat", "newer"), PAIR)
        next(newer)
        assert handlers.stopped(session) == {}
        last(newer)
        assert session.current and session.current.answer("right").stop_reason == "end"  # type: ignore[union-attr]
    session.stop_pressed()
    assert "had ended before" in handlers.stopped(session)["message"]


def test_caches_of_a_closed_stream_are_counted_like_any_other(handlers: Handlers, picture: str) -> None:
    own = replace(
        handlers,
        settings=AppSettings(limits=Limits(kept_caches=1)),
        engine_sessions=lambda run: {side: FakeEngineSession() for side in run.sides},
    )
    stopped, other = CompareSession(), CompareSession()
    pages = own.ask(stopped, picture, FIND, PAIR)
    next(pages)
    next(pages)
    pages.close()
    assert stopped.engines and stopped.kept is stopped.current
    last(own.ask(other, picture, FIND, PAIR))
    assert other.engines and not stopped.engines


def test_what_is_kept_of_pictures_belongs_to_one_tab(handlers: Handlers, picture: str) -> None:
    """Every question of a tab gets the tab's own; another tab's is another, and it is freed with the tab's caches."""
    given: list[Any] = []

    class Noting(FakeCompare):
        def __call__(self, *args: Any, pictures: Any = None, **how: Any) -> Iterator[Any]:
            given.append(pictures)
            return super().__call__(*args, **how)

    own = replace(
        handlers,
        compare=Noting(),
        settings=AppSettings(limits=Limits(kept_caches=1)),
        engine_sessions=lambda run: {side: FakeEngineSession() for side in run.sides},
        picture_cache=picture_cache,
    )
    one, other = CompareSession(), CompareSession()
    forms = [(FIND, "vl-text"), (AskForm("captioning"), "vl-text"), (AskForm("vqa", "Which?"), "vl-text")]
    last(own.three(one, picture, forms, PAIR))
    last(own.follow_up(one, "And now?", "anew"))
    assert len(given) == 4 and {id(cache) for cache in given} == {id(one.pictures)}
    cleared: list[str] = []
    one.pictures.clear = lambda: cleared.append("one")
    last(own.ask(other, picture, FIND, PAIR))
    assert given[-1] is other.pictures is not one.pictures
    assert cleared == ["one"], "the least recent tab's go first"
    one.close()
    assert cleared == ["one", "one"]


class FakeEngineSession:
    def close(self) -> None:
        self.closed = True


def test_follow_ups_go_on_from_what_the_engine_kept(handlers: Handlers, picture: str) -> None:
    kept: list[Any] = []

    class Remembering(FakeCompare):
        def __call__(self, *args: Any, sessions: Any = None, follow_up: str | None = None, **how: Any) -> Any:
            kept.append((follow_up, dict(sessions)))
            return super().__call__(*args, **how)

    own = replace(
        handlers, compare=Remembering(), engine_sessions=lambda run: {side: FakeEngineSession() for side in run.sides}
    )
    session = CompareSession()
    assert "nothing to follow up" in last(own.follow_up(session, "more", "continue"))["message"]
    last(own.ask(session, picture, AskForm("chat", "one"), PAIR))
    assert "two said" in last(own.follow_up(session, "two", "continue"))["left_card"]
    assert "three said" in last(own.follow_up(session, "three", "anew"))["left_card"]
    assert [how for how, _ in kept] == [None, "continue", "anew"]
    assert kept[0][1] == kept[1][1] == kept[2][1]
    before = kept[2][1]["left"]
    last(own.ask(session, picture, AskForm("chat", "new"), PAIR))
    assert before.closed and kept[3][1]["left"] is not before


def test_three_questions_on_one_picture(handlers: Handlers, picture: str) -> None:
    forms = three_forms(AskForm("captioning"), "what?", "the square")
    session = CompareSession()
    page = last(handlers.three(session, picture, forms, PAIR))
    assert page["three"].count("<tr>") == 4 and "what? said tiny-mamba-vl" in page["three"]
    assert [run.request.task for run in session.history] == ["grounding", "vqa", "captioning"]
    missing = last(handlers.three(session, picture, [(AskForm("vqa", ""), "vl-three-question")], PAIR))
    assert "needs a question" in missing["message"] and 'data-field="vl-three-question"' in missing["message"]


@pytest.mark.parametrize(
    ("ask", "find", "third"),
    [
        (AskForm("captioning"), "", ("grounded_captioning", "")),  # an example without a description
        (AskForm("vqa", "what?"), " ", ("grounded_captioning", "")),
        (AskForm("grounding", "the disc"), "", ("grounding", "the disc")),
        (AskForm("grounding", "the disc"), "the square", ("grounding", "the square")),
    ],
)
def test_what_is_to_be_found_is_described_or_everything(ask: AskForm, find: str, third: tuple[str, str]) -> None:
    forms = [form for form, _ in three_forms(ask, "", find)]
    assert [form.task for form in forms[:2]] == ["captioning", "vqa"] and forms[1].text
    assert (forms[2].task, forms[2].text) == third


def test_several_sessions_leave_nothing_behind(handlers: Handlers, picture: str) -> None:
    """Memory does not grow with the number of visitors that came and went."""
    import gc
    import tracemalloc

    def visitors(count: int) -> int:
        for _ in range(count):
            session = CompareSession()
            last(handlers.ask(session, picture, AskForm("chat", "one"), PAIR))
            session.close()
        handlers.compare.asked.clear()  # type: ignore[attr-defined]
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        visitors(5)
        before = visitors(5)
        assert visitors(25) - before < 200_000
    finally:
        tracemalloc.stop()


def test_box_of_an_example_in_two_decimals() -> None:
    request = read_request(AskForm("region_description", box="[0.1, 0.2, 0.3, 0.4]"), Limits())
    assert request.box == Box(0.1, 0.2, 0.3, 0.4)


class FakeSpaces:
    """The host's module: what crosses over to the worker is pickled, as there."""

    durations: list[int] = []

    @classmethod
    def GPU(cls, duration: Any) -> Any:
        import pickle

        def decorate(function: Any) -> Any:
            def lent(*values: Any) -> Any:
                crossed = pickle.loads(pickle.dumps(values))
                cls.durations.append(duration(*crossed))
                for event in function(*crossed):
                    yield pickle.loads(pickle.dumps(event))

            return lent

        return decorate


def test_a_lent_gpu_gets_plain_values_and_an_estimate(handlers: Handlers, picture: str) -> None:
    from vlcompare.machine.zerogpu import on_zerogpu
    from vlcompare.ui.zerogpu import LONGEST, adapt

    class Blocking(FakeCompare):
        def __call__(self, image: Any, request: Any, sides: Any, **how: Any) -> Any:
            assert "sessions" not in how
            how.setdefault("cancel", threading.Event())
            return super().__call__(image, request, sides, **how)

    own = replace(handlers, compare=adapt(Blocking(), None, handlers.settings, spaces=FakeSpaces))
    session = CompareSession()
    assert "one said" in last(own.ask(session, picture, AskForm("chat", "one"), PAIR))["right_card"]
    long = {side: Side("x/y", max_new_tokens=512) for side in SIDES}
    last(own.ask(session, picture, AskForm("chat", "two"), long))
    assert 20 < FakeSpaces.durations[0] < FakeSpaces.durations[1] <= LONGEST
    assert "cache is gone" in last(own.follow_up(session, "more", "continue"))["message"]
    assert "again said" in last(own.follow_up(session, "again", "anew"))["left_card"]
    assert not on_zerogpu({})


def test_loading_that_takes_no_notice_can_be_stopped(handlers: Handlers, picture: str) -> None:
    import vlcompare.ui.compare.event_stream as running

    free = threading.Event()

    def stuck(*_: Any, **how: Any) -> Any:
        yield Event("left", "status", "Loading")
        while not free.wait(how["tick"]):
            yield None

    session = CompareSession()
    pages = replace(handlers, compare=stuck).ask(session, picture, AskForm("chat", "one"), PAIR)
    next(pages)
    shown = next(pages)
    assert "Loading" in shown["left_card"] and "Loading" in shown["board"], "a narrow screen shows it, too"
    session.stop()
    page = last(pages)
    free.set()
    assert "Stopped" in page["left_card"] and session.cancel is None
    assert running.PATIENCE < 5


def test_settings_that_were_not_trained_are_marked(handlers: Handlers, picture: str) -> None:
    order = Side("finetuned_pythiavl_1b", prompt_order="instruction_first", image_size=224)
    page = last(handlers.ask(CompareSession(), picture, FIND, {"left": order, "right": Side("tiny-mamba-vl")}))
    assert "not trained in this order" in page["left_card"] and "trained at 336" in page["left_card"]
    assert "vl-tag" not in page["right_card"]


def test_an_unlisted_architecture_is_read_off_its_memory(handlers: Handlers, picture: str) -> None:
    sides = {"left": Side("someone/model"), "right": Side("someone/their-mamba")}
    page = last(handlers.ask(CompareSession(), picture, FIND, sides))
    assert "cache grows" in page["left_card"] and "state stays constant" in page["right_card"]


def test_recorded_answers_are_shown_as_such_and_only_for_their_pair(handlers: Handlers, shipped: Path) -> None:
    import json

    folder = shipped.parent
    rows = json.loads((folder / "examples.json").read_text())
    said = {"text": "[0.10,0.20,0.50,0.70].", "boxes": [[0.1, 0.2, 0.5, 0.7]], "parse": "ok"}
    rows[0]["answers"] = {side: {**said, "checkpoint": form.checkpoint} for side, form in PAIR.items()}
    other = folder.parent / "recorded"
    write_examples(other)
    (other / "examples.json").write_text(json.dumps(rows))
    (example, *rest) = examples.load_examples(other)
    session = CompareSession()
    page = handlers.recorded(session, example, PAIR)
    assert "Recorded" in page["left_card"] and "✓ IoU 1.00" in words(page["left_card"])
    assert "ms" not in page["figures"] and session.history == [] and session.shown and session.shown.recorded
    assert "nothing to follow up" in last(handlers.follow_up(session, "more", "anew"))["message"]
    assert handlers.recorded(CompareSession(), example, {**PAIR, "left": Side("x/y")}) == {}
    assert handlers.recorded(CompareSession(), example, {**PAIR, "left": Side("tiny-pythia-vl", "nf4")}) == {}
    assert handlers.recorded(CompareSession(), rest[0], PAIR) == {}
    for own in ({"dtype": "float32"}, {"temperature": 0.7}, {"max_new_tokens": 3}, {"image_size": 28}):
        assert handlers.recorded(CompareSession(), example, {**PAIR, "left": replace(PAIR["left"], **own)}) == {}, own
    refused = {**PAIR, "left": replace(PAIR["left"], top_p=0.0)}  # said by Compare; the example's fields are filled
    assert handlers.recorded(CompareSession(), example, refused) == {}


@pytest.mark.parametrize(("device", "compiled"), [("cpu", ["pythia", "mamba"]), ("cuda:99", [])])
def test_kernels_are_compiled_and_models_loaded_behind_the_scenes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], device: str, compiled: list
) -> None:
    import vlcompare.runtime.loading.load  # noqa: F401 - it keeps what it imports, and not the replacement below
    from vlcompare.runtime.loading import compile_ahead
    from vlcompare.runtime.loading.model_pool import ModelPool
    from vlcompare.ui.page import warm_up

    asked: list[str] = []
    monkeypatch.setattr(compile_ahead, "compiling", lambda family, dtype: asked.append(family))
    model = SimpleNamespace(weights_bytes=1)
    pool = ModelPool(100, load=lambda key, say: model, estimate=lambda key: 1, free=lambda key: 10**9)
    settings = AppSettings(data=tmp_path, device=device, preload=("tiny-mamba-vl",))
    warm_up(settings, Handlers(settings, FakeCompare(), pool, open_image))
    assert asked == compiled
    assert "tiny-mamba-vl is loaded" in capsys.readouterr().out


@pytest.mark.parametrize("error", [RuntimeError("CUDA error: no kernel image"), KeyError("x"), OSError("I/O error")])
def test_a_model_that_cannot_be_preloaded_for_whatever_reason_does_not_end_the_server(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    from vlcompare.runtime.loading.model_pool import ModelPool
    from vlcompare.ui.page import warm_up

    def fails(key: Any, say: Any) -> Any:
        raise error

    pool = ModelPool(100, load=fails, estimate=lambda key: 1, free=lambda key: 10**9)
    settings = AppSettings(data=tmp_path, device="cuda:99", preload=("tiny-mamba-vl",))
    warm_up(settings, Handlers(settings, FakeCompare(), pool, open_image))
    assert f"could not be preloaded ({type(error).__name__})" in capsys.readouterr().out


def test_a_server_whose_gpu_is_lost_says_so_and_ends_with_a_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from vlcompare.runtime import faults
    from vlcompare.ui import page

    ended: Any = []
    done = threading.Event()
    monkeypatch.setattr(page.os, "_exit", lambda status: (ended.append(status), done.set()))
    monkeypatch.setattr(page, "SECONDS_TO_END", 0.0)
    monkeypatch.setattr(faults, "_on_lost", [])
    faults.when_device_is_lost(page.end_process)
    faults.report(RuntimeError("out of resource: shared memory"))
    assert not ended
    for _ in range(2):
        faults.report(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert done.wait(60) and ended == [faults.LOST] and "the server ends" in capsys.readouterr().err


def test_a_session_with_a_run_at_work_is_not_closed(handlers: Handlers, picture: str) -> None:
    """gradio closes the state of a tab that was out of reach an hour ago, even while its visitor is back and asks."""
    session = CompareSession()
    pages = handlers.ask(session, picture, AskForm("chat", "one"), PAIR)
    next(pages)
    session.close()
    last(pages)
    assert session.current is not None and session.current.done and session.history == [session.current]
    assert all(session.current.answer(side).stop_reason != "cancelled" for side in PAIR)  # type: ignore[union-attr]


def test_whatever_a_visitor_does_keeps_the_session(tmp_path: Path, shipped: Path) -> None:
    """After a tab was out of reach gradio deletes, within a second, a session that its events read but do not put out:
    the first corner of a region was forgotten before the second one came."""
    from datetime import datetime, timedelta

    from gradio.state_holder import StateHolder

    from vlcompare.ui.page import build_page

    settings = AppSettings(data=tmp_path)
    page = build_page(settings, Handlers(settings, FakeCompare()))
    states = [block for block in page.blocks.values() if isinstance(getattr(block, "value", None), CompareSession)]
    session = states[0]
    events = [fn for fn in page.fns.values() if session in fn.inputs and len(fn.outputs) > 1]
    forgetting = [fn.name for fn in events if session not in fn.outputs]
    assert len(states) == 1 and len(events) >= 12 and not forgetting

    holder = StateHolder()
    holder.set_blocks(page)
    visitor = holder["a visitor"]
    for put_out, kept in ((False, False), (True, True)):  # what the above relies on
        visitor[session._id] = visitor[session._id]
        visitor.is_closed = True
        visitor._state_ttl[session._id] = (0, datetime.now() - timedelta(hours=2))
        holder.delete_all_expired_state()
        back = visitor[session._id]
        if put_out:
            visitor[session._id] = back
        holder.delete_all_expired_state()
        assert (visitor[session._id] is back) is kept


@pytest.fixture(scope="module")
def dependencies(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The events of the page, as gradio tells them to the browser."""
    from vlcompare.ui.page import build_page

    settings = AppSettings(data=tmp_path_factory.mktemp("page"))
    return build_page(settings, Handlers(settings, FakeCompare())).get_config_file()["dependencies"]


def test_an_event_shows_its_loading_sign_on_one_component_at_most(dependencies: list[dict[str, Any]]) -> None:
    """With each message of any event, gradio's page writes into all components that any event so far had its sign on,
    hidden ones, too: all outputs, unless it is told otherwise."""
    on = {one["api_name"]: one["show_progress_on"] or [] for one in dependencies if one["backend_fn"]}
    outputs = {one["api_name"]: one["outputs"] for one in dependencies if one["show_progress_on"] is None}
    assert {name: most for name, most in ({**on, **outputs}).items() if len(most) > 1} == {}
    assert len({component for shown in on.values() for component in shown}) <= 3


def test_what_may_refuse_has_a_queue(dependencies: list[dict[str, Any]]) -> None:
    """gradio's page shows no error of an event without a queue (a sentence raised there is lost): what writes a file
    for the browser may refuse to."""
    downloads = [before for before in dependencies if before["backend_fn"] and _saves(before, dependencies)]
    assert len(downloads) > 8 and [one["api_name"] for one in downloads if one["queue"] is False] == []


def _saves(event: dict[str, Any], dependencies: list[dict[str, Any]]) -> bool:
    after = [one for one in dependencies if one["trigger_after"] == event["id"]]
    return any("link.download" in str(one["js"]) for one in after)


def test_no_event_has_two_listeners_that_send_it_again(dependencies: list[dict[str, Any]]) -> None:
    """gradio's page repeats a call that "always_last" put off by sending its event again, to all of its listeners: two
    of them put off and call each other without end, some twenty requests a second."""
    from collections import Counter

    sent = Counter(
        tuple(target)
        for dependency in dependencies
        if dependency["backend_fn"] and dependency["trigger_mode"] == "always_last"
        for target in dependency["targets"]
    )
    assert len(dependencies) > 50 and [target for target, listeners in sent.items() if listeners > 1] == []
