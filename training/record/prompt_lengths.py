"""Lengths of prompts in a trace set, as lines to estimate others by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from controller.backends.openai.prompt_lengths import Line, fit_prompt_length
from controller.process.actions import ActionKind
from controller.process.types import ModelSpec
from envs.traces.format import TraceSet


def with_prompt_lengths(traces: TraceSet, models: Sequence[ModelSpec]) -> tuple[ModelSpec, ...]:
    """The models with `prompt_length`, as far as wordings and counts of the train split tell."""
    table = traces.questions
    if "question" not in table.column_names:
        return tuple(models)
    long = {
        question_id: len(text)
        for question_id, text, split in zip(
            *(table[name].to_pylist() for name in ("question_id", "question", "split")), strict=True
        )
        if text and split == "train"
    }
    counted: dict[str, dict[str, int]] = {model.name: {} for model in models}
    for batch in traces.scan(["question_id", "model", "action", "prompt_tokens"]):
        for question_id, model, action, tokens in zip(
            *(column.to_pylist() for column in batch.columns), strict=True
        ):
            if action != ActionKind.REVISE and tokens and question_id in long and model in counted:
                counted[model][question_id] = tokens
    return tuple(replace(model, prompt_length=_line(long, counted[model.name])) for model in models)


def _line(long: Mapping[str, int], counted: Mapping[str, int]) -> Line | None:
    return fit_prompt_length([(long[question], tokens) for question, tokens in counted.items()])
