"""The registry file: complete, consistent, and silent where nothing is known."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from vlcompare.errors import CheckpointError
from vlcompare.models.config import PRESETS
from vlcompare.runtime.loading.registry import find, names, registry

SIZES = ("1b", "1.4b", "2.8b"), ("790m", "1.4b", "2.8b")


def test_all_twelve_published_and_the_embedded_pair_are_listed() -> None:
    published = {
        f"{stage}_{family}vl_{size}"
        for stage in ("pretrained", "finetuned")
        for family, sizes in zip(("pythia", "mamba"), SIZES, strict=True)
        for size in sizes
    }
    assert set(names()) == published | {"tiny-pythia-vl", "tiny-mamba-vl"}
    assert len(names()) == 14


def test_pairs_match_sizes_and_point_at_each_other() -> None:
    for stage, count in (("embedded", 1), ("finetuned", 3), ("pretrained", 3)):
        pairs = registry().pairs(stage)  # type: ignore[arg-type]
        assert len(pairs) == count
        for left, right in pairs:
            assert (left.family, right.family) == ("pythia", "mamba")
            assert (left.pair, right.pair) == (right.name, left.name)
            assert left.stage == right.stage == stage
    shapes = [(a.size, b.size) for a, b in registry().pairs("finetuned")]
    assert shapes == [("1B", "790M"), ("1.4B", "1.4B"), ("2.8B", "2.8B")]


@pytest.mark.parametrize(
    ("name", "benchmark", "score"),
    [
        ("finetuned_pythiavl_1b", "COCO", 132.89),
        ("finetuned_pythiavl_1b", "AI2D", 77.62),
        ("finetuned_mambavl_790m", "RefCOCO+ B", 41.43),
        ("finetuned_pythiavl_1.4b", "V7W-P", 86.13),
        ("finetuned_mambavl_1.4b", "TextVQA", 41.30),
        ("finetuned_pythiavl_2.8b", "RefCOCOg", 76.24),
        ("finetuned_mambavl_2.8b", "COCO", 135.53),
        ("finetuned_mambavl_2.8b", "AI2D", 83.71),
    ],
)
def test_published_scores(name: str, benchmark: str, score: float) -> None:
    checkpoint = find(name)
    assert checkpoint is not None and checkpoint.scores is not None
    assert checkpoint.scores[benchmark] == score
    assert registry().score_source == "the authors' README"


def test_scores_only_where_published_and_the_odd_one_is_marked() -> None:
    benchmarks = [benchmark.name for benchmark in registry().benchmarks]
    assert len(benchmarks) == 16
    for checkpoint in registry().checkpoints:
        if checkpoint.stage == "finetuned":
            assert list(checkpoint.scores or {}) == benchmarks
        else:
            assert checkpoint.scores is None
    doubted = {(c.name, name) for c in registry().checkpoints for name in c.doubtful}
    assert doubted == {("finetuned_pythiavl_1b", "RefCOCO+ A")}


def test_what_nobody_has_seen_is_null() -> None:
    for checkpoint in registry().checkpoints:
        if not checkpoint.embedded:
            assert checkpoint.revision is None and checkpoint.license is None
            assert checkpoint.repository == f"gpantaz/{checkpoint.name}"
    seen = {c.name for c in registry().checkpoints if c.download_gb}
    assert seen == {
        "pretrained_mambavl_790m",
        "pretrained_mambavl_2.8b",
        "finetuned_mambavl_2.8b",
        "finetuned_pythiavl_1.4b",
    }


def test_parameters_agree_with_the_shapes(reference: Path) -> None:
    manifest = json.loads(gzip.decompress((reference / "key_manifest.json.gz").read_bytes()))
    for checkpoint in registry().checkpoints:
        if checkpoint.embedded:
            continue
        assert checkpoint.preset in PRESETS
        assert manifest["checkpoints"][checkpoint.name]["architecture"] == checkpoint.preset
        assert manifest["architectures"][checkpoint.preset]["params_unique"] == checkpoint.parameters


def test_found_by_name_and_by_repository() -> None:
    assert find("finetuned_mambavl_2.8b") is find("gpantaz/finetuned_mambavl_2.8b") is not None
    assert find("nobody/nothing") is None


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "missing"),
        ("{", "cannot be read"),
        ('{"schema_version": 2}', "schema_version 2"),
        ("[]", "cannot be read"),
    ],
    ids=["absent", "not json", "another version", "another shape"],
)
def test_a_damaged_registry_is_one_sentence(tmp_path: Path, content: str | None, says: str) -> None:
    path = tmp_path / "registry.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CheckpointError, match=says):
        registry(path)
