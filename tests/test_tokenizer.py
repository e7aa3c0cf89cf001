"""Text to ids and back: the bare library as the judge; streaming equals decoding the whole, for any ids."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest

from vlcompare.errors import CheckpointError, HubError
from vlcompare.runtime.tokenizer import StreamDecoder, Tokenizer

TYPED = [
    "<|endoftext|>",
    "<|padding|>",
    "a<|endoftext|>b",
    "### && <image>",
    "\0",
    "שלום עולם",
    "日本語🎉\N{WOMAN}\N{ZERO WIDTH JOINER}\N{GIRL}",
    "  x\n\n",
]


@pytest.fixture(scope="module")
def path(reference: Path) -> Path:
    return reference / "gpt-neox-20b-tokenizer.json"


@pytest.fixture(scope="module")
def neox(path: Path) -> Tokenizer:
    return Tokenizer(path)


@pytest.fixture(scope="module")
def library(path: Path):
    import tokenizers

    return tokenizers.Tokenizer.from_file(str(path))


@pytest.fixture(params=["byte_level", "word_level", "byte_fallback"])
def any_tokenizer(request: pytest.FixtureRequest, tmp_path: Path) -> Tokenizer:
    """Small tokenizers of three kinds of decoder, made here, so that nothing outside is needed."""
    import tokenizers
    from tokenizers import AddedToken, decoders, models, pre_tokenizers

    pieces = ["<|endoftext|>", "###", "&&", "red", "car", "[0.10,", "."]
    if request.param == "byte_level":
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        vocabulary = {piece: index for index, piece in enumerate([*pieces, *sorted(alphabet)])}
        made = tokenizers.Tokenizer(models.BPE(vocabulary, []))
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
    elif request.param == "word_level":
        made = tokenizers.Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="###"))
        made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    else:
        vocabulary = {piece: i for i, piece in enumerate([*pieces, *(f"<0x{byte:02X}>" for byte in range(256))])}
        made = tokenizers.Tokenizer(models.BPE(vocabulary, [], byte_fallback=True, unk_token="###"))
        made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    made.add_special_tokens([AddedToken("<|endoftext|>", special=True)])
    made.save(str(tmp_path / "tokenizer.json"))
    return Tokenizer(tmp_path)


def streamed(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    decoder = StreamDecoder(tokenizer)
    return [decoder.push(token) for token in ids] + [decoder.flush()]


def test_places_are_looked_up(neox: Tokenizer) -> None:
    assert (neox.mark_id, neox.separator_id, neox.end_id) == (4118, 10494, 0)
    neox.check()


@pytest.mark.parametrize("typed", TYPED)
def test_typed_text_never_becomes_a_special_id(neox: Tokenizer, typed: str) -> None:
    ids = neox.encode(typed)
    assert ids and min(ids) > 1
    assert neox.decode(ids) == typed


def test_no_normaliser_makes_a_special_id_of_typed_text(tmp_path: Path) -> None:
    import tokenizers
    from tokenizers import models, normalizers, pre_tokenizers

    made = tokenizers.Tokenizer(models.WordLevel({"<|endoftext|>": 0, "red": 1, "?": 2}, unk_token="?"))
    made.normalizer, made.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.WhitespaceSplit()
    made.save(str(tmp_path / "tokenizer.json"))
    for typed in ("red <|endoftext|> red", "red <\uff5cendoftext\uff5c> red"):  # the bars are full-width ones
        ids = Tokenizer(tmp_path).encode(typed)
        assert ids.count(1) == 2 and 0 not in ids


def test_ordinary_text_as_the_library_encodes_it(neox: Tokenizer, library) -> None:
    for text in ["\nQuestion: What color is the left box.\nAnswer: ", "[0.10,0.60,0.35,0.87].\n", "", " é  ##### &&&"]:
        assert neox.encode(text) == library.encode(text).ids


def test_ids_without_text(neox: Tokenizer) -> None:
    assert [neox.decode([token]) for token in (0, 1, 50277, 50303, -200, 10**9)] == [""] * 6
    assert neox.decode([0, 12092, 50300, -200]) == "Hello"
    assert streamed(neox, [50277, 12092, 0]) == ["", "Hello", "", ""]


def test_random_ids_stream_to_the_whole(neox: Tokenizer, library) -> None:
    draw = random.Random(0)
    for _ in range(300):
        ids = [draw.randrange(2, 50277) for _ in range(draw.randrange(1, 30))]
        whole = neox.decode(ids)
        assert "".join(streamed(neox, ids)) == whole == library.decode(ids)


def test_random_bytes_stream_to_the_whole(neox: Tokenizer, library) -> None:
    single = [library.token_to_id(piece) for piece in library.get_vocab() if len(piece) == 1]
    draw = random.Random(1)
    for _ in range(300):
        ids = [draw.choice(single) for _ in range(draw.randrange(1, 12))]
        assert "".join(streamed(neox, ids)) == neox.decode(ids) == library.decode(ids)


def test_text_comes_out_as_soon_as_it_is_complete(neox: Tokenizer) -> None:
    ids = neox.encode("a 日🎉 b")
    parts = streamed(neox, ids)
    assert "".join(parts) == "a 日🎉 b" and parts[0] == "a" and parts[-2:] == [" b", ""]
    assert "" in parts[1:-2] and not any("\N{REPLACEMENT CHARACTER}" in part for part in parts)
    cut = streamed(neox, neox.encode("ok🎉")[:-1])
    assert cut[-1] == "\N{REPLACEMENT CHARACTER}" and "".join(cut) == "ok\N{REPLACEMENT CHARACTER}"


def test_a_push_costs_the_same_at_any_length(neox: Tokenizer) -> None:
    decoder = StreamDecoder(neox)
    ids = neox.encode("the red car and 日本 ") * 4000
    started = time.thread_time()
    length = sum(len(decoder.push(token)) for token in ids)
    assert length > 60_000 and time.thread_time() - started < 8


def test_other_decoders_stream_to_the_whole(any_tokenizer: Tokenizer) -> None:
    size = max(i for i in range(400) if any_tokenizer.decode([i])) + 1
    assert (any_tokenizer.mark_id, any_tokenizer.separator_id, any_tokenizer.end_id) == (1, 2, 0)
    assert 0 not in any_tokenizer.encode("red <|endoftext|> car")
    assert any_tokenizer.decode(any_tokenizer.encode("red car")).replace(" ", "") == "redcar"
    draw = random.Random(2)
    for _ in range(200):
        ids = [draw.randrange(size + 3) for _ in range(draw.randrange(1, 9))]
        assert "".join(streamed(any_tokenizer, ids)) == any_tokenizer.decode(ids)


@pytest.mark.parametrize("any_tokenizer", ["byte_fallback"], indirect=True)
def test_runs_of_lone_bytes_are_read_as_they_come(any_tokenizer: Tokenizer) -> None:
    for text in ("red😀😀car", "é…é", "😀"):
        assert any_tokenizer.decode(any_tokenizer.encode(text)) == text
    emoji = any_tokenizer.encode("😀")
    assert streamed(any_tokenizer, emoji * 2) == ["", "", "", "😀", "", "", "", "😀", ""]
    assert any_tokenizer.decode([*emoji, *emoji[:2], *any_tokenizer.encode("red")]) == "😀\ufffdred"
    assert any_tokenizer.decode([*emoji, *emoji[:2]]) == "😀\ufffd"


def test_a_vocabulary_with_a_huge_id_costs_no_memory(tmp_path: Path) -> None:
    model = {"type": "WordLevel", "vocab": {"red": 5, "car": 2**32 - 1}, "unk_token": "red"}
    decoder = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": model, "decoder": decoder}))
    assert Tokenizer(tmp_path).decode([5, 2**32 - 1, 7]) == "redcar"


def test_it_is_read_at_first_use_and_once(path: Path) -> None:
    asked: list[int] = []

    def find() -> Path:
        asked.append(1)
        return path

    tokenizer = Tokenizer(find)
    assert asked == []
    assert tokenizer.encode("a") == [66] and tokenizer.decode([66]) == "a"
    assert asked == [1]


def offline() -> Path:
    raise HubError("The Hub cannot be reached; try again, or name a tokenizer.json with --tokenizer.")


@pytest.mark.parametrize(
    "source, sentence",
    [
        (None, "There is no tokenizer"),
        ("/nowhere/tokenizer.json", "/nowhere/tokenizer.json does not exist"),
        (offline, "The Hub cannot be reached"),
    ],
)
def test_a_missing_tokenizer_is_said_at_use_and_the_places_have_their_usual_ids(source, sentence: str) -> None:
    tokenizer = Tokenizer(source)
    assert (tokenizer.mark_id, tokenizer.separator_id, tokenizer.end_id) == (4118, 10494, 0)
    for use in (lambda: tokenizer.encode("a"), lambda: tokenizer.decode([66]), lambda: StreamDecoder(tokenizer)):
        with pytest.raises(CheckpointError, match=sentence):
            use()


def test_a_damaged_tokenizer_names_its_file(tmp_path: Path) -> None:
    broken = tmp_path / "tokenizer.json"
    broken.write_text("{")
    with pytest.raises(CheckpointError, match="tokenizer.json cannot be read"):
        Tokenizer(broken).encode("a")
    with pytest.raises(CheckpointError, match="cannot be read"):
        _ = Tokenizer(broken).mark_id


@pytest.mark.parametrize(
    "part",
    [
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AA=="}},  # the library panics as it reads it
        {"pre_tokenizer": {"type": "FixedLength", "length": 0}},  # and here as it encodes
        {"model": {"type": "WordPiece", "vocab": {}, "unk_token": "x", "continuing_subword_prefix": "##",
                   "max_input_chars_per_word": 9}},
    ],
    ids=["panics when read", "panics when used", "lacks its unknown token"],
)  # fmt: skip
def test_whatever_the_library_stumbles_over_names_the_file(tmp_path: Path, part: dict[str, object]) -> None:
    model = {"type": "WordLevel", "vocab": {"red": 0}, "unk_token": "red"}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": model, **part}))
    with pytest.raises(CheckpointError, match=r"tokenizer.json cannot be read"):
        Tokenizer(tmp_path).encode("red car")


def test_a_tokenizer_without_the_places_is_refused(tmp_path: Path) -> None:
    model = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": model}))
    with pytest.raises(CheckpointError, match="has no token '###'"):
        _ = Tokenizer(tmp_path).mark_id
