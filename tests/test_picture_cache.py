"""A picture is read once: by questions, sides with equal encoders, and rows of a batch; answers stay what they were."""

from __future__ import annotations

import gc
import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import write_checkpoint

import vlcompare
from vlcompare.comparison import compare
from vlcompare.errors import DeviceMemoryError
from vlcompare.evaluate import run as evaluation
from vlcompare.evaluate.engine import Engine
from vlcompare.evaluate.settings import RunSettings
from vlcompare.models.interruption import check
from vlcompare.runtime import memory, picture_cache
from vlcompare.runtime.batch import generate_batch
from vlcompare.runtime.engine import Session, generate, stream_request
from vlcompare.runtime.loading.model_pool import ModelPool
from vlcompare.runtime.picture_cache import PictureCache, SharedFeatures, picture_key
from vlcompare.runtime.session import start
from vlcompare.runtime.warm_up import warm_up
from vlcompare.types import Answer, ModelSpec, Request, Side

PICTURE = Image.radial_gradient("L").resize((90, 60)).convert("RGB")
OTHER = Image.linear_gradient("L").resize((50, 70)).convert("RGB")
QUESTIONS = [Request("vqa", text, max_new_tokens=5, stop_at_end=False) for text in ("the car", "the red car", "a", "b")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two families with one encoder, and a Mamba with another."""
    folder = tmp_path_factory.mktemp("models")
    made = {"pythia": ("pythia", 0), "mamba": ("mamba", 0), "else": ("mamba", 5)}
    folders = {name: write_checkpoint(folder / name, family, seed=seed) for name, (family, seed) in made.items()}
    frozen = load_file(folders["pythia"] / "model.safetensors")
    own = load_file(folders["mamba"] / "model.safetensors")
    own |= {key: value for key, value in frozen.items() if key.startswith("vision_encoder.")}
    save_file(own, folders["mamba"] / "model.safetensors")
    return folders


@pytest.fixture(scope="module", params=["pythia", "mamba"])
def model(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Any:
    return vlcompare.load(folders[request.param], device="cpu")


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every pass of a vision encoder, and how many positions each pass of a language model read."""
    seen: list[str] = []
    for owner, name, note in (
        (vlcompare.models.vlm.VisionLanguageModel, "vision_features", lambda given: "vision"),
        (vlcompare.models.pythia.Pythia, "forward", lambda given: f"{tuple(given.shape[:2])}"),
        (vlcompare.models.mamba.Mamba, "forward", lambda given: f"{tuple(given.shape[:2])}"),
    ):
        plain = getattr(owner, name)

        def noted(self: Any, given: Any, *more: Any, plain: Any = plain, note: Any = note) -> Any:
            seen.append(note(given))
            return plain(self, given, *more)

        monkeypatch.setattr(owner, name, noted)
    return seen


def asked(model: Any, request: Request, pictures: PictureCache | None, image: Any = PICTURE, **how: Any) -> Answer:
    *_, answer = stream_request(model, image, request, pictures=pictures, **how)
    assert isinstance(answer, Answer)
    return answer


def content(answer: Answer) -> list[tuple[int, float]]:
    return [(token.id, token.logprob) for token in answer.tokens]


def test_later_questions_read_their_text_alone_and_answer_the_same_to_the_bit(model: Any, passes: list[str]) -> None:
    pictures, image = PictureCache(), 21  # 4 x 4 patches, 4 row ends, one mark
    alone = [asked(model, question, PictureCache()) for question in QUESTIONS]
    passes.clear()
    answers = []
    for question in QUESTIONS:
        pictures.begin_question()
        answers.append(asked(model, question, pictures))
    texts = [len(answer.prompt.ids) - image for answer in answers if answer.prompt]
    assert passes == ["vision", f"(1, {image})", *(f"(1, {text})" for text in texts)]
    assert [content(one) for one in answers] == [content(one) for one in alone]
    assert [one.timings.known_positions for one in answers] == [0, *[image] * 3]
    assert answers[0].timings.vision_ms > 0 == answers[1].timings.vision_ms
    whole = [generate(model, PICTURE, task="vqa", text=q.text, max_new_tokens=5, stop_at_end=False) for q in QUESTIONS]
    for one, other in zip(answers, whole, strict=True):  # read in one pass: another order of arithmetic
        assert [token.id for token in one.tokens] == [token.id for token in other.tokens]
        assert [t.logprob for t in one.tokens] == pytest.approx([t.logprob for t in other.tokens], abs=1e-4)


def test_another_picture_and_instruction_first_are_read_anew(model: Any, passes: list[str]) -> None:
    pictures = PictureCache()
    asked(model, QUESTIONS[0], pictures)
    passes.clear()
    assert asked(model, QUESTIONS[0], pictures, OTHER).timings.known_positions == 0
    assert passes.count("vision") == 1 and len(passes) == 3
    passes.clear()
    behind = Request("vqa", "the car", prompt_order="instruction_first", max_new_tokens=3, stop_at_end=False)
    answer = asked(model, behind, pictures)
    assert len(passes) == 1 and "vision" not in passes, "the features serve, the state cannot"
    assert content(answer) == content(asked(model, behind, None))


def test_rows_of_a_batch_share_their_picture(model: Any, passes: list[str]) -> None:
    pictures = PictureCache()
    rows = [(image, question) for image in (PICTURE, OTHER) for question in QUESTIONS]
    first = generate_batch(model, rows, pictures=pictures)
    assert passes.count("vision") == 2
    read = [one for one in passes if one != "vision"]
    assert len(read) == 2 + 3, "each picture once, then the texts of each of three lengths together"
    passes.clear()
    again = generate_batch(model, rows, pictures=pictures)
    assert len(passes) == 3
    assert [content(one) for one in again] == [content(one) for one in first], "kept or not: no bit changes"
    padded = generate_batch(model, rows)
    for one, other, (image, question) in zip(first, padded, rows, strict=True):
        assert [token.id for token in one.tokens] == [token.id for token in other.tokens]
        assert [t.logprob for t in one.tokens] == pytest.approx([t.logprob for t in other.tokens], abs=1e-4)
        single = asked(model, question, PictureCache(), image)
        assert [t.logprob for t in one.tokens] == pytest.approx([t.logprob for t in single.tokens], abs=1e-4)
    mixed = generate_batch(model, [*rows[:1], (PICTURE, Request("vqa", "a", prompt_order="instruction_first"))],
                           pictures=pictures)  # fmt: skip
    assert [token.id for token in mixed[0].tokens] == [token.id for token in first[0].tokens]
    assert not mixed[1].error


def test_equal_encoders_are_one_and_serve_both_sides(folders: dict[str, Path], passes: list[str]) -> None:
    models = {name: vlcompare.load(folder, device="cpu") for name, folder in folders.items()}
    pythia, mamba, other = models.values()
    assert pythia.vlm.vision_encoder is mamba.vlm.vision_encoder is not other.vlm.vision_encoder
    assert vlcompare.load(folders["mamba"], dtype="bfloat16").vlm.vision_encoder.width == mamba.vlm.vision_encoder.width
    pictures = PictureCache()
    pictures.begin_question()
    left, right = asked(pythia, QUESTIONS[0], pictures), asked(mamba, QUESTIONS[0], pictures)
    assert passes.count("vision") == 1
    assert content(right) == content(asked(mamba, QUESTIONS[0], PictureCache()))
    assert left.timings.shared_ms == 0 < right.timings.shared_ms <= right.timings.image_ms + right.timings.vision_ms
    assert right.timings.image_ms == left.timings.image_ms
    assert right.timings.ttft_ms >= right.timings.shared_ms + right.timings.prefill_ms, "counted for both"
    passes.clear()
    assert asked(other, QUESTIONS[0], pictures).timings.shared_ms == 0
    assert passes.count("vision") == 1
    pictures.begin_question()
    later = asked(mamba, QUESTIONS[1], pictures)
    assert later.timings.shared_ms == later.timings.vision_ms == 0, "known before this question: nobody's time"


def test_an_equal_encoder_is_not_read_again_and_leaves_with_its_last_model(folders: dict[str, Path]) -> None:
    from vlcompare.runtime.loading import shared_encoders

    first = vlcompare.load(folders["pythia"], device="cpu")
    encoder = first.vlm.vision_encoder
    second = vlcompare.load(folders["mamba"], device="cpu")
    size = shared_encoders.bytes_of(encoder)
    assert shared_encoders.unique_bytes([first, second]) == first.weights_bytes + second.weights_bytes - size
    del first, encoder
    gc.collect()
    assert second.vlm.vision_encoder.dtype == torch.float32


def test_an_equal_encoder_of_folders_counts_once_before_and_after_they_are_loaded(folders: dict[str, Path]) -> None:
    from vlcompare.runtime.loading.cost import cost, loaded_encoder, weights_together
    from vlcompare.runtime.loading.shared_encoders import bytes_of
    from vlcompare.units import format_bytes

    specs = {name: ModelSpec(str(folder), device="cpu", dtype="float32") for name, folder in folders.items()}
    costs = {name: cost(spec, thorough=True) for name, spec in specs.items()}
    pool, said = ModelPool(), list[str]()
    with pool.acquire(specs["pythia"]) as first:
        size, held = bytes_of(first.vlm.vision_encoder), loaded_encoder(specs["pythia"], first)
        with pool.acquire(specs["mamba"], said.append) as second:
            assert second.vlm.vision_encoder is first.vlm.vision_encoder
    assert said[0] == f"Loading {folders['mamba']} (about {format_bytes((costs['mamba'].weights or 0) - size)})"
    every = [one.weights or 0 for one in costs.values()]
    assert held is not None and held.bytes == size
    assert weights_together(costs.values()) == sum(every) - size, "the third one's encoder is another"
    assert weights_together(costs.values(), [held]) == sum(every) - 2 * size
    other = replace(specs["mamba"], image_size=96)
    assert weights_together([costs["pythia"], cost(other, thorough=True)]) == sum(every[:2]), "another structure"


def test_an_encoder_that_a_program_has_cast_is_not_given_to_a_later_model(folders: dict[str, Path]) -> None:
    first = vlcompare.load(folders["pythia"], device="cpu")
    first.vlm.vision_encoder.to(torch.float64)
    second = vlcompare.load(folders["mamba"], device="cpu")
    assert second.vlm.vision_encoder.dtype == torch.float32
    third = vlcompare.load(folders["mamba"], device="cpu")
    assert third.vlm.vision_encoder is second.vlm.vision_encoder


def test_the_page_s_comparison_reads_the_picture_once(folders: dict[str, Path], passes: list[str]) -> None:
    sides = {name: Side(str(folders[name]), device="cpu") for name in ("pythia", "mamba")}
    pictures, pool = PictureCache(), ModelPool()
    for round, question in enumerate(QUESTIONS[:2]):
        passes.clear()
        events = compare(PICTURE, question, sides, pictures=pictures, pool=pool)
        answers = {event.side: event.value for event in events if event.kind == "answer"}
        assert passes.count("vision") == (0 if round else 1)
        assert not any(answer.error for answer in answers.values())
        assert [answer.timings.known_positions > 0 for answer in answers.values()] == [round > 0] * 2


@pytest.mark.parametrize(("second", "made"), [("mamba", 2), ("else", 4)])
def test_an_evaluation_s_second_side_takes_the_features_of_an_equal_encoder(
    folders: dict[str, Path], passes: list[str], tmp_path: Path, second: str, made: int
) -> None:
    rows = list[dict[str, str]]()
    for name, image in (("a", PICTURE), ("b", OTHER)):
        image.save(tmp_path / f"{name}.png")
        rows += [
            {"id": f"{name}{i}", "image": f"{name}.png", "task": "vqa", "text": q.text} for i, q in enumerate(QUESTIONS)
        ]
    data = tmp_path / "samples.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sides = {"left": Side(str(folders["pythia"])), "right": Side(str(folders[second]))}

    def answers(several: bool) -> list[Any]:
        passes.clear()
        out = tmp_path / str(several)
        settings = RunSettings(str(data), out, sides, device="cpu", batch_size=3, progress=False)
        evaluation.run(settings, Engine.real(several=several))
        lines = map(json.loads, (out / "predictions.jsonl").read_text().splitlines())
        return [(row["side"], row["id"], row["text"], row["tokens"]) for row in lines]

    apart = answers(False)
    assert passes.count("vision") == 4
    assert answers(True) == apart, "to the last digit"
    assert passes.count("vision") == made


def test_shared_features_are_bounded_and_end_with_another_encoder(model: Any) -> None:
    features = torch.ones(4, 8)
    shared = SharedFeatures(most_bytes=2 * features.nbytes)
    for picture in ("a", "b", "c"):
        shared.keep(picture, model.vlm.vision_encoder, features)
    assert shared.nbytes == 2 * features.nbytes
    held = [shared.get(picture, model.vlm.vision_encoder) is not None for picture in ("a", "b", "c")]
    assert held == [True, True, False], "the first ones stay: they are the first to be asked for again"
    assert shared.get("a", object()) is None and not shared.clear() and shared.nbytes == 0


def test_features_kept_for_the_next_side_leave_where_it_needs_their_room(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vlcompare.runtime.loading import load

    tried: list[int] = []

    def full_once(*given: Any, **options: Any) -> Any:
        tried.append(1)
        if len(tried) == 1:
            raise DeviceMemoryError("full")
        return model

    monkeypatch.setattr(load, "load", full_once)
    engine = Engine.real(several=True)
    generate_batch(model, [(PICTURE, QUESTIONS[0])], **engine.keep(False))
    assert engine.load("x") is model and len(tried) == 2
    tried.clear()
    with pytest.raises(DeviceMemoryError):
        engine.load("x")


def test_follow_ups_begin_at_the_kept_picture(model: Any, passes: list[str]) -> None:
    pictures, session = PictureCache(), Session()
    asked(model, QUESTIONS[0], pictures, session=session)
    assert session.features is None and session.snapshot is None, "the picture is kept once"
    passes.clear()
    anew = asked(model, QUESTIONS[1], pictures, session=session, follow_up="anew")
    assert len(passes) == 1
    assert content(anew) == content(asked(model, QUESTIONS[1], PictureCache()))
    asked(model, QUESTIONS[2], pictures, session=session, follow_up="continue")
    assert len(passes) == 5


def test_the_pool_counts_a_shared_encoder_once_and_pictures_leave_before_models(folders: dict[str, Path]) -> None:
    specs = [ModelSpec(str(folders[name]), device="cpu") for name in ("pythia", "mamba")]
    pool, pictures = ModelPool(10**6), PictureCache()
    with pool.acquire(specs[0]) as first, pool.acquire(specs[1]) as second:
        one = sum(value.nbytes for value in first.vlm.vision_encoder.parameters())
        assert pool.held_bytes() == first.weights_bytes + second.weights_bytes - one + picture_cache.held_bytes()
        asked(first, QUESTIONS[0], pictures)
        assert pictures.nbytes()
    tight = ModelPool(first.weights_bytes + second.weights_bytes - one // 2)
    with tight.acquire(specs[0]) as first, tight.acquire(specs[1]) as second:
        assert first.vlm.vision_encoder is second.vlm.vision_encoder, "they fit since they share"
    pool.budget_bytes = first.weights_bytes + second.weights_bytes - one + 40_000
    small = ModelPool(pool.budget_bytes, load=pool._load, estimate=lambda key: 40_001)
    small._entries = pool._entries
    said: list[str] = []
    with small.acquire(ModelSpec(str(folders["else"]), device="cpu"), said.append):
        assert not pictures.nbytes()
    assert sum("evicted" in sentence for sentence in said) == 1


def test_memory_is_bounded_and_the_least_recently_used_leaves(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = PictureCache()
    asked(model, QUESTIONS[0], pictures)
    size = pictures.nbytes()
    bounded = PictureCache(most_bytes=2 * size)
    images = [Image.new("RGB", (20, 20), (shade, 0, 0)) for shade in (0, 90, 180)]
    for image in images:
        asked(model, QUESTIONS[0], bounded, image)
        asked(model, QUESTIONS[0], bounded, images[0])
    assert bounded.nbytes() <= 2 * size
    kept = [bounded.prefix(picture_key(image), model) is not None for image in images]
    assert kept == [True, False, True]
    before = picture_cache.held_bytes()
    assert before >= bounded.nbytes() + pictures.nbytes()
    assert picture_cache.evict_one() and picture_cache.held_bytes() < before
    monkeypatch.setattr(memory, "available_bytes", lambda device: 0)
    asked(model, QUESTIONS[0], bounded, OTHER)
    assert picture_cache.held_bytes() == 0, "nothing is kept where the device has nothing to spare"


def test_nothing_is_kept_of_a_model_that_is_gone(folders: dict[str, Path]) -> None:
    pictures = PictureCache()
    model = vlcompare.load(folders["else"], device="cpu")
    asked(model, QUESTIONS[0], pictures)
    assert pictures.nbytes()
    del model
    gc.collect()
    assert not pictures.nbytes()


def test_caches_know_nothing_of_each_other(model: Any) -> None:
    mine, yours = PictureCache(), PictureCache()
    asked(model, QUESTIONS[0], mine)
    begin = start(model, QUESTIONS[0], None, None, PICTURE, yours)
    assert begin.state is None and yours.encoded(begin.picture, model) is None


def test_pictures_are_told_apart_by_what_they_hold(tmp_path: Path) -> None:
    file, turned = tmp_path / "a.png", PICTURE.copy()
    PICTURE.save(file)
    before = picture_key(file)
    assert picture_key(str(file)) == before != picture_key(file.read_bytes()) == picture_key(file.read_bytes())
    OTHER.save(file)
    assert picture_key(file) != before
    turned.getexif()[0x0112] = 6
    assert len({picture_key(PICTURE), picture_key(turned), picture_key(OTHER), picture_key(PICTURE.convert("L"))}) == 4
    assert picture_key(tmp_path / "absent.png") is None and picture_key(None) is None


def test_a_cancelled_question_keeps_what_is_whole(model: Any) -> None:
    pictures, cancel = PictureCache(), threading.Event()
    layer = model.vlm.language_model.layers[-1]
    layer = layer.mixer if model.config.family == "mamba" else layer
    hook = layer.register_forward_pre_hook(lambda *given: cancel.set())
    answer = asked(model, QUESTIONS[0], pictures, cancel=cancel)
    hook.remove()
    assert answer.stop_reason == "cancelled"
    assert pictures.encoded(picture_key(PICTURE), model) is not None, "the features were whole"
    check()
    cancel.clear()
    assert content(asked(model, QUESTIONS[0], pictures)) == content(asked(model, QUESTIONS[0], PictureCache()))


def test_warming_up_reads_a_few_positions_and_no_picture(model: Any, passes: list[str]) -> None:
    cancel = threading.Event()
    warm_up(model, PICTURE, QUESTIONS[0], cancel)
    assert passes == ["(1, 8)"]
    cancel.set()
    warm_up(model, PICTURE, QUESTIONS[0], cancel)


def test_progress_is_told_between_the_layers(model: Any) -> None:
    told: list[tuple[str, int, int]] = []
    asked(model, QUESTIONS[0], None, progress=lambda *each: told.append(each))
    words = [what for what, _, _ in told]
    assert list(dict.fromkeys(words)) == ["Picture", "Prompt"]
    assert all(0 <= done <= layers for _, done, layers in told)
    assert [done for what, done, _ in told if what == words[0]] == list(range(words.count(words[0])))
