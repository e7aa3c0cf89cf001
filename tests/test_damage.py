"""Damaged checkpoints of every kind: `verify` and `ask` agree, in one sentence, without a crash and within bounds."""

from __future__ import annotations

import json
import os
import random
import shutil
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image

import vlcompare
from tests.damage import TOKENIZERS, damages, edit_json, tensors
from tests.tiny import write_checkpoint
from vlcompare.errors import CheckpointError, VLCompareError
from vlcompare.runtime import tokenizer_trial
from vlcompare.runtime.bounded_files import read_bytes
from vlcompare.runtime.loading.export import write_quantized
from vlcompare.runtime.loading.load import load
from vlcompare.runtime.loading.locate import find_source
from vlcompare.runtime.loading.verify import verify
from vlcompare.runtime.tokenizer import Tokenizer

PICTURE = Image.new("RGB", (64, 64), "grey")
KINDS = [("pythia", "none"), ("mamba", "none"), ("pythia", "nf4"), ("mamba", "int8")]
# those that a quick run takes: one of each kind of refusal, none of which starts a process
QUICK = (
    "mixer.A_log as I64", "mixer.A_log as F8_E4M3", "in_proj.weight as C64", "in_proj.weight as F16",
    "norm_f.bias one nan", "in_proj.weight one 3.4e+38", "in_proj.weight all 1e+30", "embedding 1e300",
    "mixer.A_log one 100.0", "embedding shorter", "surplus layer", "200,000 empty tensors", "large metadata",
    "long key", "offsets 4 4",
    "offsets 1000000000 1000000000", "cut to 0.5", "index [[[[[[[[[[[[[[[[[[[[", "config.json pipe",
    "config.json zero", "config.json deep", "config.json large", "config.json loop", "tokenizer.json pipe",
    "tokenizer.json folder", "tokenizer.json loop", "tokenizer.json zero", "model.safetensors pipe",
    "model.safetensors folder", "model.safetensors zero", "d_model surrogate", "image_size large", "ssm_cfg text",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def data(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What was tried is remembered apart from the user's own."""
    before = os.environ.get("VLCOMPARE_DATA")
    os.environ["VLCOMPARE_DATA"] = str(tmp_path_factory.mktemp("data"))
    yield
    os.environ.pop("VLCOMPARE_DATA")
    if before is not None:
        os.environ["VLCOMPARE_DATA"] = before


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    root, made = tmp_path_factory.mktemp("whole"), {}
    for family, method in KINDS:
        plain = root / family
        if not plain.exists():
            write_checkpoint(plain, family, width=64)
        made[family, "none"] = plain
        if method != "none":
            made[family, method] = write_quantized(find_source(plain), root / method, method, torch.device("cpu"))
    return made


def outcome(folder: Path, how: str) -> str:
    """ "fine", or the sentence of the refusal; anything else that is raised fails the test."""
    try:
        if how == "verify":
            verify(folder)
        else:
            answer = vlcompare.generate(load(folder), PICTURE, task="captioning", max_new_tokens=3)
            return answer.error or "fine"
    except VLCompareError as error:
        return str(error)
    return "fine"


def both(folder: Path) -> str:
    verified, asked = outcome(folder, "verify"), outcome(folder, "ask")
    assert (verified == "fine") == (asked == "fine"), (verified, asked)
    for said in (verified, asked):
        assert "\n" not in said and len(said) < 1000 and said.isprintable(), said
    return verified


def damaged(whole: dict[tuple[str, str], Path], kind: tuple[str, str], name: str, place: Path) -> Path:
    folder = Path(shutil.copytree(whole[kind], place / "damaged"))
    dict(damages(*kind))[name](folder)
    return folder


@pytest.mark.parametrize("name", QUICK)
def test_verify_and_ask_agree(whole: dict[tuple[str, str], Path], tmp_path: Path, name: str) -> None:
    said = both(damaged(whole, ("mamba", "none"), name, tmp_path))
    assert (said == "fine") == (name == "in_proj.weight as F16"), said


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_all_damages(whole: dict[tuple[str, str], Path], tmp_path: Path, kind: tuple[str, str]) -> None:
    counts: Counter[str] = Counter()
    wrong, slowest = [], (0.0, "")
    for name, damage in damages(*kind):
        folder = Path(shutil.copytree(whole[kind], tmp_path / "damaged"))
        damage(folder)
        started = time.monotonic()
        try:
            counts["fine" if both(folder) == "fine" else "refused"] += 1
        except BaseException as error:  # noqa: BLE001  every damage is tried before any of them fails the test
            if isinstance(error, KeyboardInterrupt):
                raise
            wrong.append(f"{name}: {type(error).__name__}: {str(error)[:300]}")
        slowest = max(slowest, (time.monotonic() - started, name))
        shutil.rmtree(folder)
    print(kind, dict(counts), "slowest", slowest)
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
def test_bytes_at_random(whole: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    """One byte in each of some hundred copies, among the header's, the config's and the tokenizer's."""
    draw, counts = random.Random(3), Counter()
    for turn in range(300):
        kind = draw.choice(KINDS)
        folder = Path(shutil.copytree(whole[kind], tmp_path / str(turn)))
        file = folder / draw.choice(("config.json", "model.safetensors", "model.safetensors", "tokenizer.json"))
        content = bytearray(file.read_bytes())
        content[draw.randrange(min(len(content), 4000))] = draw.randrange(256)
        file.write_bytes(content)
        counts["fine" if both(folder) == "fine" else "refused"] += 1
        shutil.rmtree(folder)
    print(dict(counts))
    assert counts.total() == 300 and counts["refused"] > counts["fine"] > 0


@pytest.mark.parametrize("name", ["growing normaliser", "panics when used", "long piece"])
def test_a_hostile_tokenizer_ends_in_a_sentence(
    whole: dict[tuple[str, str], Path], tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(whole["mamba", "none"], tmp_path / "x"))
    edit_json("tokenizer.json", TOKENIZERS[name])(folder)
    with pytest.raises(CheckpointError, match=r"tokenizer.json cannot be read \("):
        Tokenizer(folder / "tokenizer.json").encode("a")
    assert capfd.readouterr().err == ""  # the library's panic stays in the other process


def test_a_tokenizer_is_tried_once(
    whole: dict[tuple[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLCOMPARE_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(tokenizer_trial, "_tried", set())
    tries: list[str] = []
    run = tokenizer_trial.subprocess.run
    monkeypatch.setattr(tokenizer_trial.subprocess, "run", lambda *a, **k: (tries.append(a[0][-1]), run(*a, **k))[1])
    file = whole["mamba", "none"] / "tokenizer.json"
    for _ in range(2):
        Tokenizer(file).encode("a")
        tokenizer_trial._tried.clear()  # as a new process would have it
    assert tries == ["tokenizer.json"]
    Tokenizer(tokenizer_trial.CHECKPOINTS / "tiny-mamba-vl").encode("a")
    assert len(tries) == 1  # those of this project start as they are
    edit_json("tokenizer.json", lambda d: d.update(truncation=None, more=1))  # another file is another matter
    copy = tmp_path / "tokenizer.json"
    copy.write_bytes(file.read_bytes() + b"\n")
    Tokenizer(copy).encode("a")
    assert len(tries) == 2


def test_a_trial_has_a_clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tokenizer_trial, "SECONDS", 0.01)
    monkeypatch.setattr(tokenizer_trial, "_tried", set())
    monkeypatch.setenv("VLCOMPARE_DATA", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"took over 0.01 seconds"):
        tokenizer_trial.require_usable(tmp_path / "tokenizer.json", b"{}")


def test_a_file_that_grows_ends_at_its_limit(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(b"x" * 1000)
    assert len(read_bytes(file, 1000)) == 1000
    with pytest.raises(CheckpointError, match="larger than"):
        read_bytes(file, 999)


def test_reading_a_pipe_waits_for_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    done = threading.Event()

    def read() -> None:
        with pytest.raises(CheckpointError, match="not a regular file"):
            read_bytes(tmp_path / "config.json", 10)
        done.set()

    threading.Thread(target=read, daemon=True).start()
    assert done.wait(60)


@pytest.mark.parametrize(("kind", "words"), [("folder", "not a regular file"), ("loop", "symbolic links")])
def test_a_tokenizer_that_is_no_file_is_called_what_it_is(
    whole: dict[tuple[str, str], Path], tmp_path: Path, kind: str, words: str
) -> None:
    folder = damaged(whole, ("mamba", "none"), f"tokenizer.json {kind}", tmp_path)
    assert words in outcome(folder, "verify") and words in outcome(folder, "ask")
    with pytest.raises(CheckpointError, match=words):
        load(whole["mamba", "none"], tokenizer=folder / "tokenizer.json")


@pytest.mark.parametrize("value", [81.0, 1e30])
def test_a_recurrence_that_overflows_is_refused(
    whole: dict[tuple[str, str], Path], tmp_path: Path, value: float
) -> None:
    """exp(A_log) is infinite from 88.7 on."""
    folder = Path(shutil.copytree(whole["mamba", "none"], tmp_path / "x"))
    tensors(lambda held: held[next(key for key in held if "A_log" in key)].view(-1)[:1].fill_(value))(folder)

    def quantize(folder: Path) -> None:
        write_quantized(find_source(folder), tmp_path / "out", "int8", torch.device("cpu"))

    for attempt in (load, verify, quantize):
        with pytest.raises(CheckpointError, match=r"A_log' holds values up to .* overflow"):
            attempt(folder)


def test_quantize_refuses_a_tokenizer_that_is_a_pipe(whole: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole["mamba", "none"], tmp_path / "x"))
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")
    with pytest.raises(CheckpointError, match="not a regular file"):
        write_quantized(find_source(folder), tmp_path / "out", "nf4", torch.device("cpu"))
    assert not (tmp_path / "out").exists()


def test_scores_that_are_no_numbers_are_an_error_and_no_text(
    whole: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    folder = damaged(whole, ("pythia", "none"), "attention.dense.weight all 1e+30", tmp_path)
    answer = vlcompare.generate(load(folder), PICTURE, task="captioning")
    assert answer.text == "" and answer.tokens == () and answer.stop_reason == "error"
    assert "not numbers" in str(answer.error) and "NaN" not in json.dumps(answer.to_json())
