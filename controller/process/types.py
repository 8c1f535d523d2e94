"""The nouns that every part shares: questions, actions' requests and attempts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from controller.process.actions import ActionKind
from controller.process.cost import Usage

CUT = "length"
"""`Attempt.finish_reason` of an attempt that was cut at its longest."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question.

    Attributes:
        question_id: unique within a trace set.
        text: what the models read.
        dataset: where it comes from.
        reference: ground truth; only a grader may read it. None when answering live.
        level: difficulty level, 1-based; None when unknown.
        history: turns of a conversation before it, `{"role": ..., "content": ...}` each.
        since: turns after it: calls of tools and what they returned.
        fields: further fields of requests to models, as a client set them: `temperature`,
            `stop`, `tools`.
        max_new_tokens: longest attempt that is wanted; None for the backend's own limit.
        answers: kind of its answers, see `controller.answers`; None for the backend's own.
    """

    question_id: str
    text: str
    dataset: str = ""
    reference: str | None = None
    level: int | None = None
    history: tuple[dict[str, Any], ...] = ()
    since: tuple[dict[str, Any], ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict, hash=False)
    max_new_tokens: int | None = None
    answers: str | None = None


@dataclass(frozen=True, kw_only=True)
class AdapterSpec:
    """A reviser or verifier: an adapter on a model's weights, with parameters of its own."""

    name: str
    parameters: int
    digest: str


Rates = tuple[float, float]
"""Dollars or seconds of a million prompt tokens, and of a million written ones."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What the ledger needs to know about one language model.

    Attributes:
        name: shown in traces, tables and decisions.
        rung: 0 for the small model, 1 and up for the ladder above it.
        parameters: active parameters per token; None when the maker does not tell.
        max_new_tokens: longest attempt that the backend lets it write.
        temperature: at which its attempts are sampled; None when unknown.
        digest: of the weights, to tie a controller to the models it was trained for.
        adapters: on its weights.
        prompt: chat that it is asked with, `{question}` in the place of the question; empty for
            the bare question.
        body: further fields of each request to it.
        prompt_length: constant and tokens per character of a question, from which the length of
            a prompt is estimated where no tokenizer is at hand; None when unknown.
        dollars: of a million prompt and written tokens, as listed; None when unknown.
    """

    name: str
    rung: int
    parameters: float | None = None
    max_new_tokens: int | None = None
    temperature: float | None = None
    digest: str | None = None
    adapters: tuple[AdapterSpec, ...] = ()
    prompt: tuple[dict[str, str], ...] = ()
    body: Mapping[str, Any] = field(default_factory=dict, hash=False)
    prompt_length: tuple[float, float] | None = None
    dollars: Rates | None = None


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One generated output.

    Attributes:
        attempt_id: unique within its question.
        question_id: question that it tries to answer.
        model: name of the model that wrote it.
        rung: rung of that model.
        action: SAMPLE, REVISE or ESCALATE.
        index: number among the attempts of the same question, model and action.
        parent_id: attempt that it revises; None otherwise.
        answer: parsed answer; None when none could be read.
        text: what the model wrote; None in traces that do not keep it.
        thoughts: what it wrote before, as far as its server tells them apart from the text.
        refused: whether the text is told as a refusal, in the place of an answer.
        calls: of tools, entries of OpenAI's `tool_calls` each.
        told: entries of OpenAI's `logprobs.content`, where an asker wants them.
        prompt_tokens: length of the prompt.
        completion_tokens: tokens written.
        finish_reason: why it ended, as servers say: `stop`, or `length` where it was cut at its
            longest; None if unknown.
        how: rule by which the answer was read from the text; None without an answer or rule.
        mean_logprob: mean log-probability of the written tokens, in nats; None if unknown.
        min_logprob: the least of them; None if unknown.
        verifier_score: verifier's probability that the answer is right, before it is calibrated
            where an arm verifies; None if unknown.
        verifier_tokens: that the arm read and wrote for it; None if unknown.
        num_revisions: revisions of it that can be had, of every arm or by rung; None for as many
            as one likes.
        error: why generation failed; None when it did not.
        retry_after_s: pause that its server asks for, where it failed; None if it asks for none.
        usage: what making it consumed.
    """

    attempt_id: str
    question_id: str
    model: str
    rung: int
    action: ActionKind
    index: int
    answer: str | None
    prompt_tokens: int
    completion_tokens: int
    text: str | None = None
    thoughts: str = field(default="", compare=False)
    refused: bool = False
    calls: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    told: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    parent_id: str | None = None
    finish_reason: str | None = None
    how: str | None = None
    mean_logprob: float | None = None
    min_logprob: float | None = None
    verifier_score: float | None = None
    verifier_tokens: int | None = None
    num_revisions: int | tuple[int, ...] | None = None
    error: str | None = None
    retry_after_s: float | None = field(default=None, compare=False)
    usage: Usage = field(default_factory=Usage)

    @property
    def brief(self) -> str:
        """Itself in a few words."""
        return str(self.answer) if self.error is None else f"failed: {self.error}"

    @property
    def cut(self) -> bool:
        """Whether it ended because it was as long as an attempt may be."""
        return self.finish_reason == CUT
