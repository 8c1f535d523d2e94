"""The verifier: a LoRA adapter that knows better what the small model should have written.

It learns the worked solutions of questions, most of all the tokens at which the small model's own
recorded attempts go wrong. Its score of an attempt, one forward pass over question and attempt, is
made of how likely it finds the attempt's tokens, and calibrated on other questions by logistic
regression (Platt 1999) together with what the writer itself thought of them. Why not a head on
the last hidden state: docs/decisions/0008.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from controller.backends.local.adapters import (
    judge,
    load_adapters,
    probability,
    save_adapter,
    score_attempts,
    token_logprobs,
)
from controller.backends.local.kv import batches_by_length, padded
from controller.backends.local.model import Encoded, LocalModel, load_model
from controller.backends.prompts import VERIFIER
from controller.checkpoint import seen_from
from controller.errors import ConfigError
from controller.files import write_json
from controller.process.lockstep import Floats
from envs.traces.format import TraceSet, tables_digest, write_table
from training.adapters.reviser import AttemptGroup, WorkedSolution, attempts_by_question, with_lora
from training.learn.calibration import auroc, calibrate, expected_calibration_error
from training.learn.resume import has_state, load_state, save_state

_AT_ONCE = 4096
"""Attempts that are scored between two reports of progress."""


@dataclass(frozen=True, kw_only=True)
class VerifierConfig:
    """Training of the verifier.

    Attributes:
        rank: of the LoRA matrices.
        epochs: passes over the questions.
        learning_rate: peak, of Muon; falls along a cosine.
        error_weight: of a token at which every attempt goes wrong, relative to one at which
            none does, less 1.
        save_every: optimiser steps between saved states.
        seed: of weights and order.
    """

    rank: int = 32
    epochs: int = 12
    learning_rate: float = 0.01
    error_weight: float = 10.0
    save_every: int = 500
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """A question with its worked solution: L tokens, and how much each counts, (L,)."""

    tokens: tuple[int, ...]
    weights: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Graded:
    """n attempts, `right` (n,), `logprobs` (n, 2) and number of the `question`, (n,), in order."""

    texts: list[Encoded]
    right: NDArray[np.bool_]
    logprobs: Floats
    question: NDArray[np.int64]


def lesson(
    group: AttemptGroup, worked_solution: str, local: LocalModel, error_weight: float
) -> Lesson:
    """What recorded attempts at one question teach."""
    _, attempts = group
    question = attempts[0].question
    solution = local.encode_attempt(question, worked_solution)
    weights = np.zeros(len(solution.tokens), np.float32)  # (L,)
    weights[solution.begin :] = 1.0
    for attempt in attempts:
        if not attempt.right:
            written = local.encode_attempt(question, attempt.text).tokens
            error = _first_difference(written, solution.tokens)
            weights[error] += error_weight / len(attempts)
    return Lesson(tokens=solution.tokens, weights=weights)


def _first_difference(written: tuple[int, ...], solution: tuple[int, ...]) -> int:
    """Position of the first token of a solution that was not written; the last one at most."""
    pairs = enumerate(zip(written, solution, strict=False))
    return next((i for i, (ours, right) in pairs if ours != right), len(solution) - 1)


def graded_attempts(groups: Iterable[AttemptGroup], local: LocalModel) -> Graded:
    """Recorded attempts, question by question, ready for the verifier."""
    attempts, question = [], []
    for number, (_, group) in enumerate(groups):
        attempts += group
        question += [number] * len(group)
    return Graded(
        texts=[local.encode_attempt(a.question, a.text) for a in attempts],
        right=np.array([a.right for a in attempts]),
        logprobs=np.array([a.logprobs for a in attempts], np.float64).reshape(-1, 2),
        question=np.array(question, np.int64),
    )


class VerifierTraining:
    """One training of a verifier of the model `base`, begun or resumed, into `out`.

    It learns from attempts with their texts and the worked solution of each question of the train
    split; `out/training` holds what resuming needs.
    """

    def __init__(
        self,
        base: str | Path,
        traces: Sequence[TraceSet],
        worked_solution: WorkedSolution,
        out: Path,
        config: VerifierConfig | None = None,
    ) -> None:
        self.config, self.out = config or VerifierConfig(), out
        self.local = load_model(base, 0)
        known, new = (
            [group for t in traces for group in attempts_by_question(t, split)]
            for split in ("train", "validation")
        )
        self.lessons = [
            lesson(group, worked_solution(group[0]), self.local, self.config.error_weight)
            for group in known
            if group[1]
        ]
        self.validation = graded_attempts(new, self.local)
        self.model = with_lora(self.local.model, self.config.rank, self.config.seed)
        self.trained = nn.ParameterList(p for p in self.model.parameters() if p.requires_grad)
        self.optimizer = torch.optim.Muon(
            list(self.trained), lr=self.config.learning_rate, momentum=0.95, weight_decay=0.0
        )
        self.step = 0
        if has_state(out / "training"):
            progress, _ = load_state(out / "training", self.trained, [self.optimizer])
            self.step = progress["step"]

    def _batches(self, epoch: int) -> list[list[int]]:
        """Positions of the lessons of each batch of an epoch; of about equal lengths."""
        rng = np.random.default_rng((self.config.seed, epoch))
        order = rng.permutation(len(self.lessons))
        lengths = [len(self.lessons[i].tokens) for i in order]
        batches = [order[batch].tolist() for batch in batches_by_length(lengths)]
        return [batches[i] for i in rng.permutation(len(batches))]

    def run(self, progress: Callable[[float, float], None] | None = None) -> dict[str, float]:
        """Train, calibrate and save; `progress` hears of the share that is done and the loss.

        Returns:
            `auroc` and `ece` on the validation split.
        """
        self.model.train()
        step = 0
        for epoch in range(self.config.epochs):
            batches = self._batches(epoch)
            total = len(batches) * self.config.epochs
            for batch in batches:
                step += 1
                if step <= self.step:
                    continue
                loss = self._learn(batch, step / total)
                self.step = step
                if step % self.config.save_every == 0:
                    self._save_state()
                if progress is not None and step % 20 == 0:
                    progress(step / total, loss)
        self._save_state()
        return self._finish()

    def _save_state(self) -> None:
        progress = {"step": self.step, "config": asdict(self.config)}
        save_state(self.out / "training", self.trained, [self.optimizer], progress)

    def _learn(self, batch: list[int], done: float) -> float:
        lessons = [self.lessons[i] for i in batch]
        inputs, _ = padded([each.tokens for each in lessons], self.model.device)
        logits = self.model(**inputs, use_cache=False).logits  # (B, L, V)
        weights = pad_sequence([torch.from_numpy(each.weights) for each in lessons], True)  # (B, L)
        weights = weights.to(logits.device)
        errors = -token_logprobs(logits, inputs["input_ids"])  # (B, L - 1)
        loss = (errors * weights[:, 1:]).sum() / weights.sum()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.trained.parameters(), 1.0)
        rate = min(1.0, done * 50) * 0.5 * (1 + math.cos(math.pi * done))
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * rate
        self.optimizer.step()  # type: ignore[no-untyped-call]
        self.optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    def _finish(self) -> dict[str, float]:
        self.model.eval()
        known = self.validation
        judged = judge(self.model, known.texts, "default")
        score = calibrate(judged.double().numpy(), known.logprobs, known.right, known.question)
        save_adapter(self.model, self.out, base_digest=self.local.digest, score=score)
        right = probability(score, judged, torch.from_numpy(known.logprobs).float()).numpy()
        return {
            "auroc": auroc(right, known.right),
            "ece": expected_calibration_error(right, known.right),
        }


def add_scores(
    traces: TraceSet,
    small: str | Path,
    verifier: Path,
    out: Path,
    progress: Callable[[int], None] = lambda done: None,
) -> int:
    """Write a trace set again with a verifier's scores of the small model's attempts.

    Scores that it has are replaced; `progress` is called with the number of attempts scored.

    Returns:
        How many attempts were scored.

    Raises:
        ConfigError: `out` holds a trace set, or the set's small model is another one.
    """
    if (out / "trace.json").exists():
        raise ConfigError(f"{out}: expected no trace set there yet; choose another directory")
    local = load_adapters(load_model(small, 0), {VERIFIER: verifier})
    entry = traces.manifest.get("models", {}).get(local.name)
    if entry is None or entry.get("digest") not in (None, local.digest):
        raise ConfigError(
            f"{traces.path}: expected attempts by {local.name} with digest {local.digest}, found "
            f"{entry and entry.get('digest')}; verify them with the model that wrote them"
        )
    attempts = traces.attempts
    named = ("question_id", "model", "text", "error", "mean_logprob", "min_logprob")
    held = attempts.select([name for name in named if name in attempts.column_names]).to_pandas()
    held = held.reindex(columns=list(named))
    rows = held[held["model"].eq(local.name) & held["text"].notna() & held["error"].isna()]
    if rows.empty:
        raise ConfigError(
            f"{traces.path}: expected attempts by {local.name} with their texts, found none"
        )
    scores, questions = np.full(len(attempts), np.nan), traces.questions
    columns = (questions[name].to_pylist() for name in ("question_id", "question"))
    asked = dict(zip(*columns, strict=True))
    for start in range(0, len(rows), _AT_ONCE):
        part = rows.iloc[start : start + _AT_ONCE]
        pairs = zip(part["question_id"], part["text"], strict=True)
        texts = [local.encode_attempt(asked[question], text) for question, text in pairs]
        logprobs = part[["mean_logprob", "min_logprob"]].to_numpy(np.float32, copy=True)  # (n, 2)
        scores[part.index] = score_attempts(local, texts, torch.from_numpy(logprobs))
        progress(start + len(part))
    out.mkdir(parents=True, exist_ok=True)
    kept = attempts.select([n for n in attempts.column_names if n != "verifier_score"])
    column = pa.array(scores, pa.float32(), from_pandas=True)
    write_table(out / "questions.parquet", traces.questions)
    write_table(out / "attempts.parquet", kept.append_column("verifier_score", column))
    write_json(out / "trace.json", _rewritten_manifest(traces, local, verifier, out))
    return len(rows)


def _rewritten_manifest(
    traces: TraceSet, local: LocalModel, verifier: Path, out: Path
) -> dict[str, Any]:
    """`trace.json` as seen from the new directory, with the verifier's entry."""
    manifest: dict[str, Any] = json.loads(json.dumps(traces.manifest))
    for entry in manifest["models"].values():
        for each in (entry, *entry.get("adapters", {}).values()):
            if each.get("path") is not None:
                each["path"] = seen_from(out, traces.path, each["path"])
    (spec,) = local.adapters
    manifest["models"][local.name].setdefault("adapters", {})[VERIFIER] = {
        "parameters": spec.parameters,
        "digest": spec.digest,
        "path": seen_from(out, Path(), verifier),
    }
    return manifest | {"digest": tables_digest(out)}
