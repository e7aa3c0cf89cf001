"""Blind comparisons: before the vote nothing tells which model is which, or which answer is right."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from ui_fakes import FakeCompare, last, png, words

from vlcompare.comparison import Event
from vlcompare.errors import RequestError
from vlcompare.render import result_card
from vlcompare.runtime.image import open_image
from vlcompare.types import SIDES, Answer, Side
from vlcompare.ui.compare import cards, views
from vlcompare.ui.compare.belonging import settings_line
from vlcompare.ui.compare.example_questions import recorded_run
from vlcompare.ui.compare.files import card_picture
from vlcompare.ui.compare.form_values import form_values
from vlcompare.ui.compare.forms import AskForm
from vlcompare.ui.compare.handlers import Handlers
from vlcompare.ui.compare.session import MAX_SHOWN, CompareSession, Picture
from vlcompare.ui.compare.stored import stored_line, stored_of
from vlcompare.ui.compare.together import three_view, together
from vlcompare.ui.compare.votes import Votes, cast, tally
from vlcompare.ui.compare.wiring.tab import three_forms
from vlcompare.ui.examples import load_examples

PAIR = {"left": Side("tiny-pythia-vl"), "right": Side("tiny-mamba-vl")}
FIND = AskForm("grounding", "the large red square")
SHOWN = Picture.of(open_image(png()), png())


def test_blind_hides_names_and_figures_until_the_vote(handlers: Handlers, picture: str) -> None:
    seen = set()
    for _ in range(24):
        session = CompareSession()
        page = last(handlers.ask(session, picture, FIND, PAIR, blind=True))
        run = session.history[0]
        seen.add(run.sides["left"].settings.checkpoint)
        for region in ("left_card", "right_card", "figures", "charts", "together", "history", "prompts"):
            assert "ythia" not in page[region] and "amba" not in page[region], region
    assert seen == {"tiny-pythia-vl", "tiny-mamba-vl"}  # shuffled
    run.voted = "tie"
    assert "ythia" in views.whole(session, run)["figures"]


def test_a_blind_runs_models_are_named_neither_while_they_load_nor_by_what_follows(
    handlers: Handlers, picture: str
) -> None:
    session = CompareSession()
    for page in handlers.ask(session, picture, FIND, PAIR, blind=True):
        assert not any("ythia" in str(view) or "amba" in str(view) for view in page.values())
    fields = form_values(session.history[0])  # in an order that does not tell which side is which
    assert fields.index("tiny-mamba-vl") < fields.index("tiny-pythia-vl")
    page = last(handlers.follow_up(session, "the disc", "anew"))
    assert "blind" in page["asked"] and "amba" not in page["left_card"] + page["right_card"]
    last(handlers.ask(session, picture, FIND, PAIR, blind=True))
    other, following, first = session.history
    assert all(run.hidden for run in session.history)
    following.sides = dict(zip(SIDES, reversed(list(following.sides.values())), strict=True))  # as Swap sides does
    session.vote(first, "tie")
    assert "tiny-pythia-vl" in form_values(first) and (first.blind, following.blind) == (True, False)
    assert other.hidden, "another comparison's sides are not told"
    broken = {**PAIR, "left": Side("broken/one")}
    last(handlers.ask(session, picture, FIND, broken, blind=True))
    assert not session.history[0].hidden, "what failed names its model, and leaves nothing to choose between"


def test_a_blind_vote_is_cast_without_verdicts_or_the_truth() -> None:
    for example in load_examples():
        run = recorded_run(example, SHOWN, PAIR)
        run.blind = True
        hidden = words(str(views.whole(CompareSession(), run)))
        assert "0.5 or more is right" not in hidden and "Expected:" not in hidden, example.id
        for run.voted in (None, "tie"):
            views_of_both = [cards.scoreboard(run), together(run), three_view([run])]
            shown = "".join([*views_of_both, *(cards.card(run, side) for side in SIDES)])
            assert ("vl-verdict" in shown) == bool(run.voted), example.id
            assert ("vl-truth" in shown) == bool(run.truth and run.voted), example.id


def test_the_result_card_of_a_blind_run_shows_no_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    card = result_card.result_card

    def noted(*given: Any, **more: Any) -> Any:
        seen.append((more.get("truth"), more.get("references")))
        return card(*given, **more)

    monkeypatch.setattr(result_card, "result_card", noted)
    run = recorded_run(next(one for one in load_examples() if one.truth and one.references), SHOWN, PAIR)
    run.blind = True
    card_picture(run)
    run.voted = "tie"
    card_picture(run)
    assert seen == [(None, None), (run.truth, run.references)]


def test_a_failed_follow_up_tells_the_names_of_what_it_follows(handlers: Handlers, picture: str) -> None:
    class Failing(FakeCompare):
        def __call__(self, image: Any, request: Any, sides: Any, **how: Any) -> Iterator[Event | None]:
            yield from super().__call__(image, request, sides, **how)
            if request.text == "too long":
                yield Event("left", "answer", Answer(stop_reason="error", error="No room.", checkpoint="any"))

    session, own = CompareSession(), replace(handlers, compare=Failing())
    last(own.ask(session, picture, FIND, PAIR, blind=True))
    last(own.ask(session, picture, FIND, PAIR, blind=True))
    last(own.follow_up(session, "too long", "anew"))
    failed, followed, other = session.history
    assert not failed.hidden and not followed.hidden and other.hidden


def test_a_vote_on_answers_that_were_shown_with_their_names_is_not_blind(handlers: Handlers, picture: str) -> None:
    session = CompareSession()
    last(handlers.ask(session, picture, FIND, PAIR))
    (named,) = session.history
    for form in (FIND, AskForm("grounding", "the disc")):
        last(handlers.ask(session, picture, form, PAIR, blind=True))
        assert session.shown is not None and session.shown.hidden
        assert session.recognizable(session.shown) == (form == FIND)
    disc = session.history[0]
    last(handlers.ask(session, picture, AskForm("grounding", "the disc"), PAIR, blind=True))
    session.vote(session.history[0], "tie")
    assert disc.hidden and session.recognizable(disc), "the same answers, whose models were told by the vote"
    last(handlers.ask(session, picture, AskForm("chat", "hello"), PAIR, blind=True))
    last(handlers.follow_up(session, FIND.text, "anew", "grounding"))
    follow, first = session.history[:2]
    assert follow.request.text == named.request.text and follow.hidden
    assert session.recognizable(follow) and session.recognizable(first), "their sides are the same"


def test_one_known_model_tells_the_other(handlers: Handlers, picture: str) -> None:
    session = CompareSession()
    last(handlers.ask(session, picture, FIND, {"left": Side("any/first"), "right": Side("any/second")}))
    for sides, known in ((("any/third", "any/first"), True), (("any/third", "any/fourth"), False)):
        last(handlers.ask(session, picture, FIND, dict(zip(SIDES, map(Side, sides), strict=True)), blind=True))
        assert session.recognizable(session.history[0]) == known


def test_a_reduced_picture_is_known_again(handlers: Handlers, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), np.uint8)
    path = tmp_path / "large.png"
    Image.fromarray(noise).save(path)
    session = CompareSession()
    last(handlers.ask(session, str(path), FIND, PAIR))
    (named,) = session.history
    assert named.picture.reduced
    (tmp_path / "again.webp").write_bytes(named.picture.data)
    last(handlers.ask(session, str(tmp_path / "again.webp"), FIND, PAIR, blind=True))
    assert session.history[0].hidden and session.recognizable(session.history[0])


def test_models_that_have_not_answered_yet_are_not_told(handlers: Handlers, picture: str) -> None:
    session = CompareSession()
    named = handlers.ask(session, picture, FIND, PAIR)
    next(named)
    last(handlers.ask(session, picture, FIND, PAIR, blind=True))
    assert session.shown is not None and session.shown.hidden and not session.recognizable(session.shown)


def test_a_vote_that_was_cast_blind_stays_and_is_counted_once(handlers: Handlers, picture: str) -> None:
    session, pictures = CompareSession(), [picture, str(load_examples()[0].image)]
    for path, choices in zip(pictures, (("left", "right"), ("tie", "left")), strict=True):
        assert tally(session) == ""
        last(handlers.ask(session, path, FIND, PAIR, blind=True))
        run = session.history[0]
        assert session.counted(run, choices[0]) == (choices[0], True)
        for choice in choices:
            session.vote(run, choice)
        assert session.counted(run, "both_bad") == (choices[0], True)
        if choices[0] == "left":
            better = settings_line(run.sides["left"].settings)
            run.swap()
            assert session.counted(run, "left") == ("right", True), "a vote for a model, not for a place"
    assert tally(session) in (
        f"Your blind votes: {better} 1, both good 1.",
        f"Your blind votes: both good 1, {better} 1.",
    )
    last(handlers.ask(session, picture, FIND, PAIR))
    session.vote(session.history[0], "left")
    session.vote(session.history[0], "right")
    assert session.history[0].voted == "right" and session.blind_votes.total() == 2


def test_a_stored_vote_and_its_note_stay_until_another_is_stored(
    handlers: Handlers, picture: str, tmp_path: Path
) -> None:
    votes, session = Votes(tmp_path / "votes"), CompareSession()

    def stored() -> list[tuple[str, str, str]]:
        rows = csv.DictReader(io.StringIO(votes.export(session.stored)))
        return [(row["choice"], row["blind"], row["note"]) for row in rows]

    last(handlers.ask(session, picture, FIND, PAIR, blind=True))
    run = session.history[0]
    assert cast(votes, session, run, "left", "my note", consent=True).endswith("left; it is stored.")
    assert "left; it is stored. It was cast blind" in cast(votes, session, run, "right", "", consent=False)
    cast(votes, session, run, "right", "", consent=True)
    assert stored() == [("left", "1", "my note")]
    last(handlers.ask(session, picture, AskForm("chat", "hello"), PAIR))
    named = session.history[0]
    cast(votes, session, named, "tie", "first", consent=True)
    assert "not stored. The one that you stored before stays" in cast(votes, session, named, "left", "", consent=False)
    assert stored()[1] == ("tie", "0", "first") and named.voted == "left"
    cast(votes, session, named, "right", "", consent=True)
    session.history = []
    assert stored()[1] == ("right", "0", "first"), "what is no longer kept was stored all the same"


def test_votes_for_models_of_one_name_are_told_apart() -> None:
    session = CompareSession()
    session.blind_votes[Side("/one/final")] += 2
    session.blind_votes[Side("/two/final", dtype="bfloat16")] += 1
    session.blind_votes[Side("/two/final")] += 2
    assert tally(session) == "Your blind votes: final (/two/final) 3, final (/one/final) 2."


def test_what_is_shown_again_and_again_is_known_once(handlers: Handlers, picture: str) -> None:
    session = CompareSession()
    for form in (FIND, AskForm("chat", "hello")):
        last(handlers.ask(session, picture, form, PAIR))
    for _ in range(MAX_SHOWN):
        handlers.restore(session, session.history[0].id)
    last(handlers.ask(session, picture, FIND, PAIR, blind=True))
    assert session.recognizable(session.history[0])


def test_each_model_has_its_column_after_the_sides_were_exchanged(handlers: Handlers, picture: str) -> None:
    session = CompareSession()
    last(handlers.three(session, picture, three_forms(FIND, "what?", "the disc"), PAIR))
    handlers.restore(session, session.history[1].id)
    handlers.swap(session)
    view = str(three_view(session.group(session.shown), session.shown.id))
    again = [re.findall(r"<td>.*?</td>", row) for row in re.findall(r"<tr>.*?</tr>", view)]
    assert [len(cells) for cells in again] == [0, 2, 2, 2]
    answers = {run.id: [run.sides[side].settings.checkpoint for side in SIDES] for run in session.history}
    assert len({tuple(pair) for pair in answers.values()}) == 2, "one of them is exchanged"
    for run, cells in zip(session.group(session.shown), again[1:], strict=True):
        left = next(side for side in SIDES if run.sides[side].settings == session.shown.sides["left"].settings)
        assert words(cells[0]).startswith(words(cards.result_text(run.answer(left))))


def test_a_vote_is_stored_with_whether_it_was_blind(handlers: Handlers, picture: str, tmp_path: Path) -> None:
    votes, session = Votes(tmp_path / "votes"), CompareSession()
    with pytest.raises(RequestError, match="is stored: tick"):
        votes.export(set())
    for blind in (False, True):
        last(handlers.ask(session, picture, FIND, PAIR, blind=True))
        votes.add(session.history[0], "left", consent=True, blind=blind)
    assert [row["blind"] for row in csv.DictReader(io.StringIO(votes.export()))] == ["0", "1"]


def test_recorded_answers_are_not_shown_where_blind_is_ticked(handlers: Handlers) -> None:
    example = next(one for one in load_examples() if one.truth)
    assert handlers.recorded(CompareSession(), example, PAIR, blind=True) == {}
    session = CompareSession()
    assert handlers.recorded(session, example, PAIR)
    form = AskForm("grounding", example.text)
    last(handlers.ask(session, str(example.image), form, PAIR, blind=True, example=example.id))
    assert session.shown is not None and session.shown.hidden and session.recognizable(session.shown)
    last(handlers.ask(session, str(example.image), AskForm("chat", "hello"), PAIR))
    last(handlers.ask(session, str(example.image), form, PAIR, blind=True, example=example.id))
    assert session.recognizable(session.shown), "recorded answers were shown a while ago"


def test_three_questions_are_asked_of_the_same_two_hidden_models(handlers: Handlers, picture: str) -> None:
    left = set()
    for _ in range(24):
        session = CompareSession()
        page = last(handlers.three(session, picture, three_forms(FIND, "what?", "the disc"), PAIR, blind=True))
        assert "ythia" not in page["history"] and "Model A" in page["three"] and "Tiny" not in page["three"]
        (name,) = {run.sides["left"].settings.checkpoint for run in session.history}
        left.add(name)
    assert left == {"tiny-pythia-vl", "tiny-mamba-vl"}  # shuffled
    session.vote(session.history[0], "tie")
    assert not any(run.hidden for run in session.history)


@pytest.mark.parametrize("fails", [True, False])
def test_names_that_are_told_midway_are_told_of_the_questions_to_come(
    handlers: Handlers, picture: str, fails: bool
) -> None:
    session, forms = CompareSession(), three_forms(FIND, "what?", "the disc")
    pair = {**PAIR, "left": Side("broken/one")} if fails else PAIR
    for _ in handlers.three(session, picture, forms, pair, blind=True):
        if not fails and session.history and session.history[-1].voted is None:
            session.vote(session.history[-1], "tie")  # while the others are still to be asked
    assert len(session.history) == 3 and not any(run.hidden for run in session.history)


@pytest.mark.parametrize("reason", ["end", "limit", "newline", "context"])
def test_how_an_answer_ended_tells_nothing(reason: str) -> None:
    run = recorded_run(next(one for one in load_examples() if one.truth), SHOWN, PAIR)
    for part in run.sides.values():
        part.answer = replace(part.answer, stop_reason=reason, parse="unparseable", boxes=())  # type: ignore[type-var]
    run.blind = True
    page = views.whole(CompareSession(), run)
    assert words(page["left_card"]).startswith("Model AFinished") and "Unparseable" not in page["left_card"]
    assert "after your vote" in page["prompts"] and "image first" not in page["prompts"]
    for anonymous in (True, False):
        facts = result_card.facts(result_card.CardSide(run.sides["left"].answer, anonymous=anonymous))  # type: ignore[arg-type]
        assert bool(facts) != anonymous
    run.voted = "tie"
    assert "Unparseable" in views.whole(CompareSession(), run)["left_card"]


def test_a_stored_answer_is_compared_with_its_own_models(handlers: Handlers, picture: str) -> None:
    for _ in range(12):
        session = CompareSession()
        last(handlers.ask(session, picture, FIND, PAIR))
        (asked,) = session.history
        asked.stored = stored_of(asked, "run", "sample")
        last(handlers.ask(session, picture, FIND, PAIR, blind=True))
        run = session.history[0]
        session.vote(run, "tie")
        assert str(stored_line(run)).count("agrees with what is stored") == len(SIDES)
