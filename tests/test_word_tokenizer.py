"""The embedded pair's tokenizer: exact both ways, single tokens where they are meant to be, nothing special typed."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from vlcompare.runtime.tokenizer import StreamDecoder, Tokenizer
from vlcompare.synth.scenes.questions import ask
from vlcompare.synth.scenes.scene import Scene, lay_out
from vlcompare.synth.train import word_tokenizer as pieces
from vlcompare.synth.train.encoded_questions import answer_of, chat_sample, request_of
from vlcompare.tasks.prompts import build_turns
from vlcompare.tasks.sequence import IMAGE_MARK


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(pieces.write(tmp_path_factory.mktemp("tokenizer")))


def _samples(count: int) -> list:
    samples = []
    for seed in range(count):
        ground, objects, document = lay_out(seed, "training")
        scene = Scene(None, objects, document, ground, seed, "training")  # type: ignore[arg-type]
        samples += [*ask(scene), chat_sample(scene)]
    return samples


def test_ids_and_size(tokenizer: Tokenizer) -> None:
    assert tokenizer.end_id == 0
    assert tokenizer.mark_id == pieces.token_id("###") and tokenizer.separator_id == pieces.token_id("&&")
    assert len(pieces.vocabulary()) < 1500
    assert {token: tokenizer.token_id(token) for token in pieces.vocabulary()} == pieces.vocabulary()
    assert sorted(pieces.vocabulary().values()) == list(range(len(pieces.vocabulary())))


def test_every_prompt_and_answer_of_the_world_comes_back_exactly_and_without_loose_letters(
    tokenizer: Tokenizer,
) -> None:
    loose = {pieces.token_id(letter) for letter in "bcdefghijklmnopqrstuvwxyz"}  # bytes; "a" and "A" are words
    for sample in _samples(60):
        for text in (*build_turns(request_of(sample)), answer_of(sample)):
            if text == IMAGE_MARK:
                continue
            ids = tokenizer.encode(text)
            assert tokenizer.decode(ids) == text
            assert not loose & set(ids) or sample.task == "chat", text


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("[0.12,0.34,0.56,0.78]", 4),
        ("[0.12,0.34,0.56,0.78].\n", 5),
        ("Provide a short description of the region:\n", 1),
        ("Answer the question using a single word or phrase.", 1),
        ("\nQuestion: What color is the car?\nAnswer: ", 8),
        ("###", 1),
        ("&&", 1),
        (" butterfly", 1),
        ("Yes.", 2),
        ("104", 3),
        ("", 0),
    ],
)
def test_how_many_tokens(tokenizer: Tokenizer, text: str, count: int) -> None:
    ids = tokenizer.encode(text)
    assert len(ids) == count
    assert tokenizer.decode(ids) == text


def test_any_unicode_comes_back_whole_and_streamed(tokenizer: Tokenizer) -> None:
    dice = random.Random(5)
    ranges = ((1, 128), (128, 0x800), (0x800, 0xD800), (0x1F300, 0x1F700))
    for _ in range(50):
        text = "".join(chr(dice.randrange(*dice.choice(ranges))) for _ in range(40))
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        decoder = StreamDecoder(tokenizer)
        assert "".join(decoder.push(token) for token in ids) + decoder.flush() == text


@pytest.mark.parametrize("text", ["<|endoftext|>", "a <|endoftext|> b", "<|endoftext|><|endoftext|>"])
def test_typed_end_of_text_is_plain_text(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert 0 not in ids
    assert tokenizer.decode(ids) == text


def test_a_coordinate_keeps_its_bin(tokenizer: Tokenizer) -> None:
    first, middle, last = pieces.coordinate_ids()
    for low, high in ((0, 100), (7, 93), (50, 51)):
        text = f"[{low / 100:.2f},{low / 100:.2f},{high / 100:.2f},{high / 100:.2f}]"
        assert tokenizer.encode(text) == [first[low], middle[low], middle[high], last[high]]


def test_written_twice_it_is_the_same_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    one, two = (pieces.write(tmp_path / name).read_bytes() for name in ("a", "b"))
    assert one == two
