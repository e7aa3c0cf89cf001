"""The engine: one decode loop, streamed and blocking, stopped and followed up, for both architectures alike."""

from __future__ import annotations

import json
import threading
import weakref
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny import write_checkpoint

import vlcompare
from vlcompare.errors import DeviceMemoryError, ImageError, RequestError
from vlcompare.runtime import step_graphs
from vlcompare.runtime.engine import Session, generate, generate_batch, stream
from vlcompare.runtime.memory import PeakMemory
from vlcompare.types import Answer, Request, Step

FAMILIES = ["pythia", "mamba"]
PICTURE = Image.radial_gradient("L").resize((90, 60)).convert("RGB")
OTHER = Image.linear_gradient("L").resize((50, 70)).convert("RGB")


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    return vlcompare.load(str(write_checkpoint(tmp_path_factory.mktemp(request.param), request.param)), device="cpu")


def ids(answer: Answer) -> list[int]:
    return [token.id for token in answer.tokens]


def test_stream_ends_with_the_answer_of_generate(model) -> None:
    *steps, answer = stream(model, PICTURE, task="vqa", text="what is this", max_new_tokens=12, stop_at_end=False)
    assert all(isinstance(step, Step) for step in steps)
    assert isinstance(answer, Answer)
    assert [step.index for step in steps] == list(range(12))
    again = generate(model, PICTURE, task="vqa", text="what is this", max_new_tokens=12, stop_at_end=False)
    assert ids(again) == ids(answer) == [step.id for step in steps]
    assert again.text == answer.text
    assert answer.stop_reason == "limit"
    assert "".join(step.text for step in steps).strip().removesuffix(".") == answer.text


def test_answers_are_those_of_the_whole_sequence_at_once(model) -> None:
    """Cached decoding gives, token by token, the argmax of a forward pass over everything so far."""
    answer = generate(model, PICTURE, task="captioning", max_new_tokens=8, stop_at_end=False)
    whole = [*answer.prompt.ids, *ids(answer)]
    logits = model.logits(model.preprocess(PICTURE), whole)
    expected = logits[len(answer.prompt.ids) - 1 : -1].argmax(-1).tolist()
    assert ids(answer) == expected
    logprobs = logits[len(answer.prompt.ids) - 1 : -1].log_softmax(-1)
    for row, token in enumerate(answer.tokens):
        assert token.logprob == pytest.approx(logprobs[row, token.id].item(), abs=1e-4)
        assert token.top[0].id == token.id


def test_no_token_asks_a_gpu_s_allocator_for_its_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps it by itself, and telling it takes longer than many a kernel: once at the end is enough."""
    asked: list[object] = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: asked.append(device) or len(asked))
    peak = PeakMemory(torch.device("cuda", 0))
    before = len(asked)
    peak.sample()
    assert len(asked) == before
    assert peak.measure() == before + 1


def test_two_answers_at_once_do_not_reset_each_others_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    resets: list[object] = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", resets.append)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 7)
    gpu = torch.device("cuda", 0)
    left, right = PeakMemory(gpu), PeakMemory(gpu)
    assert len(resets) == 1 and left.measure() == right.measure() == 7
    PeakMemory(gpu)
    assert len(resets) == 2


@pytest.mark.parametrize("batched", [True, False])
def test_out_of_memory_lets_go_of_buffers_that_nobody_uses(model, monkeypatch, batched: bool) -> None:
    lm = model.vlm.language_model
    make = lm.new_state
    used = make(1, 9)
    kept = step_graphs.step_runner(lm, used, capturer=lambda device: None)
    unused = weakref.ref(step_graphs.step_runner(lm, make(2, 9), capturer=lambda device: None).buffers)
    assert unused().unused and not kept.buffers.unused

    def too_much(*given: object, **how: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(lm, "new_state", too_much)
    with pytest.raises(torch.OutOfMemoryError if batched else DeviceMemoryError):
        if batched:
            generate_batch(model, [(PICTURE, Request("captioning"))])
        else:
            generate(model, PICTURE, task="captioning")
    assert unused() is None
    assert kept.state is used and not kept.buffers.unused


def test_timings_and_memory_are_whole(model) -> None:
    answer = generate(model, PICTURE, task="captioning", max_new_tokens=6, stop_at_end=False)
    times, memory = answer.timings, answer.memory
    assert len(times.token_ms) == 5
    assert min(times.image_ms, times.vision_ms, times.prefill_ms, *times.token_ms) > 0
    assert times.ttft_ms >= times.image_ms + times.vision_ms + times.prefill_ms
    assert times.total_ms == pytest.approx(times.ttft_ms + sum(times.token_ms), rel=0.05, abs=1.0)
    assert times.tokens_per_s == pytest.approx(1e3 * 5 / sum(times.token_ms))
    assert memory.weights_bytes == model.weights_bytes > 0
    assert memory.state_bytes == memory.state_bytes_formula == memory.state_trace[-1] > 0
    grows = memory.state_trace[-1] > memory.state_trace[0]
    assert grows == (model.config.family == "pythia"), "the cache grows, the state does not"


def test_time_that_the_consumer_takes_is_not_counted(model) -> None:
    import time

    gaps = []
    for item in stream(model, PICTURE, task="captioning", max_new_tokens=4, stop_at_end=False):
        if isinstance(item, Step):
            time.sleep(0.2)
        else:
            gaps = item.timings.token_ms
    assert len(gaps) == 3
    assert min(gaps) < 150


def test_instruction_first_puts_the_image_behind_the_instruction(model) -> None:
    first = generate(model, PICTURE, task="vqa", text="x", max_new_tokens=2)
    second = generate(model, PICTURE, task="vqa", text="x", max_new_tokens=2, prompt_order="instruction_first")
    assert first.prompt.turns[0] == "<image>" == second.prompt.turns[1]
    assert first.prompt.ids.index(-200) < second.prompt.ids.index(-200)
    assert sorted(first.prompt.ids) == sorted(second.prompt.ids)


def test_same_seed_same_tokens(model) -> None:
    def draw(seed: int) -> list[int]:
        how = {"temperature": 1.0, "top_p": 0.95, "top_k": 50, "seed": seed, "max_new_tokens": 12}
        return ids(generate(model, PICTURE, task="captioning", stop_at_end=False, **how))

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_end_of_text_stops_and_is_no_text(model) -> None:
    end = model.tokenizer.end_id
    language = model.vlm.language_model
    real = language.logits

    def ending(hidden):
        logits = real(hidden)
        calls.append(1)
        if len(calls) == 3:
            logits[..., end] = 1e4
        return logits

    calls: list[int] = []
    language.logits = ending
    try:
        answer = generate(model, PICTURE, task="captioning", max_new_tokens=10)
        calls.clear()
        longer = generate(model, PICTURE, task="captioning", max_new_tokens=10, stop_at_end=False)
    finally:
        del language.logits
    assert answer.stop_reason == "end"
    assert ids(answer)[-1] == end
    assert len(answer.tokens) == 3
    assert "endoftext" not in answer.text
    assert len(longer.tokens) == 10


def test_newline_stops_where_the_task_says(model) -> None:
    newline = model.tokenizer.encode("\n")
    assert len(newline) == 1
    language = model.vlm.language_model
    real = language.logits

    def breaking(hidden):
        logits = real(hidden)
        logits[..., newline[0]] = 1e4
        return logits

    language.logits = breaking
    try:
        chat = generate(model, PICTURE, task="chat", text="hi")
        caption = generate(model, PICTURE, task="captioning", max_new_tokens=5)
    finally:
        del language.logits
    assert (chat.stop_reason, chat.text) == ("newline", "")
    assert caption.stop_reason == "limit"


def test_cancel_stops_within_a_token_and_the_next_run_works(model) -> None:
    for _ in range(3):
        cancel = threading.Event()
        steps, answer = 0, None
        for item in stream(model, PICTURE, task="captioning", max_new_tokens=30, stop_at_end=False, cancel=cancel):
            if isinstance(item, Step):
                steps += 1
                if steps == 3:
                    cancel.set()
            else:
                answer = item
        assert steps == 3
        assert answer is not None
        assert answer.stop_reason == "cancelled"
        assert len(answer.tokens) == 3
    assert len(generate(model, PICTURE, task="captioning", max_new_tokens=4, stop_at_end=False).tokens) == 4


def test_cancelled_before_the_first_token(model) -> None:
    cancel = threading.Event()
    cancel.set()
    answer = generate(model, PICTURE, task="captioning", cancel=cancel)
    assert (answer.stop_reason, answer.text, answer.tokens) == ("cancelled", "", ())
    assert answer.memory.state_bytes == 0, "a prompt is not read for nobody"


def test_a_question_that_is_broken_off_leaves_the_session_as_it_was(model) -> None:
    how = {"task": "captioning", "max_new_tokens": 4, "stop_at_end": False}
    session = Session()
    generate(model, PICTURE, session=session, **how)
    before = vars(session).copy()
    running = stream(model, OTHER, session=session, **how)
    next(running)
    running.close()
    assert vars(session) == before


def test_deadline(model) -> None:
    answer = generate(model, PICTURE, task="captioning", max_new_tokens=400, stop_at_end=False, deadline=1e-9)
    assert answer.stop_reason == "deadline"


def test_full_context_stops_the_transformer_only(tmp_path: Path) -> None:
    for family in FAMILIES:
        folder = write_checkpoint(tmp_path / family, family)
        if family == "pythia":
            data = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps({**data, "max_position_embeddings": 100}))
        model = vlcompare.load(str(folder), device="cpu")
        answer = generate(model, PICTURE, task="captioning", max_new_tokens=90, stop_at_end=False)
        if family == "pythia":
            assert answer.stop_reason == "context"
            assert len(answer.prompt.ids) + len(answer.tokens) == 101  # the last token needs no position
            with pytest.raises(RequestError, match=r"holds 100.*shorten"):
                generate(model, PICTURE, task="vqa", text="a long question " * 20)
        else:
            assert answer.stop_reason == "limit"


def test_ask_anew_equals_a_first_question(model) -> None:
    for order in ("image_first", "instruction_first"):
        session = Session()
        how = {"max_new_tokens": 8, "stop_at_end": False, "prompt_order": order}
        generate(model, PICTURE, task="captioning", session=session, **how)
        anew = generate(model, None, task="vqa", text="the car", session=session, follow_up="anew", **how)
        fresh = generate(model, PICTURE, task="vqa", text="the car", **how)
        assert ids(anew) == ids(fresh)
        assert anew.prompt == fresh.prompt
        assert anew.timings.vision_ms == 0 == anew.timings.image_ms


def test_continue_equals_everything_in_one_prompt(model) -> None:
    session = Session()
    how = {"max_new_tokens": 8, "stop_at_end": False}
    first = generate(model, PICTURE, task="vqa", text="the car", session=session, **how)
    second = generate(model, None, task="vqa", text="red", session=session, follow_up="continue", **how)
    assert second.prompt.ids[: len(first.prompt.ids) + 8] == (*first.prompt.ids, *ids(first))
    assert second.prompt.turns.count("<image>") == 1
    assert sum("single word or phrase" in turn for turn in second.prompt.turns) == 1, "the instruction stands once"
    whole = model.logits(model.preprocess(PICTURE), [*second.prompt.ids, *ids(second)])
    assert ids(second) == whole[len(second.prompt.ids) - 1 : -1].argmax(-1).tolist()
    third = generate(model, None, task="vqa", text="é", session=session, follow_up="continue", **how)
    assert third.prompt.ids[: len(second.prompt.ids)] == second.prompt.ids


def test_a_continued_chat_is_worded_as_a_fresh_one_with_its_history(model) -> None:
    session = Session()
    generate(model, PICTURE, task="chat", text="Hello", session=session, max_new_tokens=3)
    for history in ((), (("Hello", "Yes"),)):  # what the session holds is not said again
        how = {"task": "chat", "text": "where is the car", "history": history, "max_new_tokens": 3}
        turns = generate(model, None, session=session, follow_up="continue", **how).prompt.turns
        fresh = generate(model, PICTURE, **{**how, "history": (("Hello", "Yes"),)}).prompt.turns
        assert turns[-1] == fresh[-1] == "Where is the car.\n"
        assert [turn.lower() for turn in turns].count("hello.\n") == 1


def test_asking_anew_needs_no_session_where_the_picture_is_given(model) -> None:
    how = {"task": "vqa", "text": "the car", "max_new_tokens": 8, "stop_at_end": False}
    session = Session()
    fresh = generate(model, PICTURE, **how)
    for _ in range(2):  # the second time from what the first one has kept
        assert ids(generate(model, PICTURE, session=session, follow_up="anew", **how)) == ids(fresh)
    with pytest.raises(RequestError, match="no earlier question"):
        generate(model, PICTURE, session=Session(), follow_up="continue", **how)


def test_follow_ups_without_a_first_question_are_refused(model) -> None:
    for session in (None, Session()):
        with pytest.raises(RequestError, match="first question"):
            generate(model, None, task="captioning", session=session, follow_up="anew")


def test_batch_equals_one_by_one(model) -> None:
    asked = [
        (PICTURE, Request("captioning", max_new_tokens=9, stop_at_end=False)),
        (OTHER, Request("vqa", text="what is the red car", max_new_tokens=5, stop_at_end=False)),
        (PICTURE, Request("grounding", text="é", max_new_tokens=12, stop_at_end=False)),
        (OTHER, Request("chat", text="tell", max_new_tokens=7, temperature=0.8, seed=4)),
        (PICTURE, Request("vqa", text="x", prompt_order="instruction_first", max_new_tokens=3)),
    ]
    batch = generate_batch(model, asked)
    for (image, request), answer in zip(asked, batch, strict=True):
        fields = {name: getattr(request, name) for name in ("task", "text", "prompt_order", "max_new_tokens")}
        alone = generate(
            model,
            image,
            **fields,
            stop_at_end=request.stop_at_end,
            temperature=request.temperature,
            seed=request.seed,
        )
        assert ids(answer) == ids(alone)
        assert (answer.text, answer.boxes, answer.stop_reason) == (alone.text, alone.boxes, alone.stop_reason)
        assert answer.memory.state_bytes_formula == alone.memory.state_bytes_formula
        assert answer.timings.mode == "batch"


def test_a_long_prompt_in_a_batch_does_not_end_the_others(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "pythia", "pythia")
    data = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**data, "max_position_embeddings": 120}))
    model = vlcompare.load(str(folder), device="cpu")
    how = {"max_new_tokens": 30, "stop_at_end": False}
    asked = [
        (PICTURE, Request("captioning", **how)),
        (OTHER, Request("vqa", text="a long question", **how)),
        (OTHER, Request("captioning", **how)),
    ]
    batch = generate_batch(model, asked)
    alone = [generate(model, image, task=request.task, text=request.text, **how) for image, request in asked]
    assert [answer.stop_reason for answer in batch] == ["limit", "context", "limit"]
    assert [ids(answer) for answer in batch] == [ids(answer) for answer in alone]


def test_a_limit_beyond_the_context_splits_no_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers end long before it, so prompts of all lengths run together."""
    model = vlcompare.load(str(write_checkpoint(tmp_path / "pythia", "pythia")), device="cpu")
    lm, end = model.vlm.language_model, model.tokenizer.end_id
    forward, logits, together = lm.forward, lm.logits, []

    def counted(embeddings: torch.Tensor, *rest: object) -> torch.Tensor:
        together.append(len(embeddings))
        return forward(embeddings, *rest)

    monkeypatch.setattr(lm, "forward", counted)
    monkeypatch.setattr(lm, "logits", lambda hidden: logits(hidden).index_fill(-1, torch.tensor([end]), 1e4))
    asked = [(PICTURE, Request("vqa", text="a" * count, max_new_tokens=4096)) for count in (1, 9, 17)]
    answers = generate_batch(model, asked)
    assert together == [3] and {answer.stop_reason for answer in answers} == {"end"}
    assert len({len(answer.prompt.ids) for answer in answers if answer.prompt}) == 3


def test_a_broken_picture_fails_alone_in_a_batch(model) -> None:
    asked = [(PICTURE, Request("captioning")), (b"no picture", Request("captioning")), (OTHER, Request("captioning"))]
    answers = generate_batch(model, asked)
    assert [bool(answer.error) for answer in answers] == [False, True, False]
    assert ids(answers[2]) == ids(generate(model, OTHER, task="captioning"))


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"task": "dancing"}, RequestError),
        ({"task": "vqa"}, RequestError),
        ({"task": "captioning", "temperature": -1}, RequestError),
        ({"task": "captioning", "image": b""}, ImageError),
        ({"task": "region_description", "box": [0.1, 0.2]}, RequestError),
        ({"task": "region_description", "box": "left"}, RequestError),
        ({"task": "multiple_choice", "text": "x", "choices": 5}, RequestError),
        ({"task": "chat", "text": "x", "history": [("alone",)]}, RequestError),
    ],
)
def test_bad_requests_are_refused_in_a_sentence(model, fields: dict, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"\."):
        generate(model, **{"image": PICTURE, **fields})


def test_special_words_typed_by_a_user_stay_text(model) -> None:
    answer = generate(model, PICTURE, task="chat", text="<|endoftext|> ### <image>", max_new_tokens=1)
    text_ids = [id for id in answer.prompt.ids if id >= 0]
    rows, columns = model.vlm.vision_encoder.grid
    assert model.tokenizer.end_id not in text_ids
    assert sum(id == -200 for id in answer.prompt.ids) == rows * columns
