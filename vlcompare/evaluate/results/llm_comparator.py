"""LLM Comparator's JSON: its README, "JSON Data Format", at github.com/PAIR-code/llm-comparator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def comparison(
    source: str, models: Sequence[str], kinds: Mapping[str, str], examples: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The whole file. `kinds` gives the type of each custom field, by name ("category", "per_model_number", ..)."""
    return {
        "metadata": {
            "source_path": source,
            "custom_fields_schema": [{"name": name, "type": kind} for name, kind in kinds.items()],
        },
        "models": [{"name": name} for name in models],
        "examples": list(examples),
    }


def example(
    question: str, tags: Sequence[str], answers: Sequence[str], score: float | None, fields: Mapping[str, Any]
) -> dict[str, Any]:
    """One question with the answers of models A and B; `score` from -1.5 (B is better) to 1.5 (A is), None: unknown."""
    return {
        "input_text": question,
        "tags": list(tags),
        "output_text_a": answers[0],
        "output_text_b": answers[1],
        "score": score,
        "individual_rater_scores": [],
        "custom_fields": dict(fields),
    }
