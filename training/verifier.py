"""The verifier: a LoRA adapter and a head that tell how likely an attempt is right.

It reads question and attempt in one forward pass of the small model. At every token of a recorded
attempt it learns whether all is right so far: an attempt goes wrong at the first token that
departs from the worked solution (as a process reward model, Lightman et al. 2023,
arXiv 2305.20050, with labels that cost nothing). Its score is what it says at the last token,
calibrated on other questions by logistic regression (Platt 1999) on that score and the
attempt's log-probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor, nn

from controller.backends.adapters import ScoreHead, last_states, save_adapter
from controller.backends.batches import batches_by_length, padded
from controller.backends.local_model import LocalModel, load_model
from controller.prompts import judged_messages
from envs.traces import TraceSet
from training.adapter_data import (
    AttemptGroup,
    attempts_by_question,
    distinct,
    worked_solution,
)
from training.state import has_state, load_state, save_state

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class VerifierConfig:
    """Training of the verifier.

    Attributes:
        rank: of the LoRA matrices.
        epochs: passes over the attempts.
        muon_lr: peak, of the LoRA matrices; falls along a cosine.
        adamw_lr: peak, of the head.
        save_every: optimiser steps between saved states.
        seed: of weights and order.
    """

    rank: int = 32
    epochs: int = 4
    muon_lr: float = 0.01
    adamw_lr: float = 1e-2
    save_every: int = 500
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Judged:
    """n attempts as token ids of question and attempt, with what is known of each.

    Attributes:
        texts: n of them.
        right: (n,).
        begins: (n,) first token of the attempt itself.
        errs: (n,) first token that departs from the worked solution; the length of the text
            where the answer is right.
        logprobs: mean and least log-probability of the tokens, (n, 2).
    """

    texts: list[tuple[int, ...]]
    right: NDArray[np.bool_]
    begins: NDArray[np.int64]
    errs: NDArray[np.int64]
    logprobs: Floats


def judged_attempts(groups: Iterable[AttemptGroup], local: LocalModel) -> Judged:
    """Recorded attempts, question by question, ready for the verifier."""
    texts, begins, errs, attempts = [], [], [], []
    for question_id, group in groups:
        if not group:
            continue
        question = group[0].question
        begin = len(local.encode_chat([{"role": "user", "content": question}]))
        solution = _encoded(local, question, worked_solution(question_id))
        for attempt in group:
            text = _encoded(local, question, attempt.text)
            texts.append(text)
            begins.append(begin)
            errs.append(len(text) if attempt.right else _first_difference(text, solution))
        attempts += group
    return Judged(
        texts=texts,
        right=np.array([a.right for a in attempts]),
        begins=np.array(begins),
        errs=np.array(errs),
        logprobs=np.array([a.logprobs for a in attempts], np.float64).reshape(-1, 2),
    )


def _encoded(local: LocalModel, question: str, attempt: str) -> tuple[int, ...]:
    return local.encode_chat(judged_messages(question, attempt), complete=True)


def _first_difference(text: tuple[int, ...], solution: tuple[int, ...]) -> int:
    """Where a wrong attempt goes wrong; at the latest at its last token."""
    pairs = enumerate(zip(text, solution, strict=False))
    return next((i for i, (ours, right) in pairs if ours != right), len(text) - 1)


class VerifierTraining:
    """One training, begun or resumed.

    Args:
        base: directory of the small model.
        traces: attempts at questions of the pool `adapters`.
        out: directory of the adapter; its `training` holds what resuming needs.
        config: settings.
    """

    def __init__(
        self,
        base: Path,
        traces: Sequence[TraceSet],
        out: Path,
        config: VerifierConfig | None = None,
    ) -> None:
        from peft import LoraConfig, get_peft_model

        self.config, self.out = config or VerifierConfig(), out
        self.local = load_model(base, 0)
        known, new = (
            [group for t in traces for group in attempts_by_question(t, split)]
            for split in ("train", "validation")
        )
        self.train = judged_attempts(((q, distinct(group)) for q, group in known), self.local)
        self.validation = judged_attempts(new, self.local)
        with torch.random.fork_rng():
            torch.manual_seed(self.config.seed)
            self.model: Any = get_peft_model(
                self.local.model,
                LoraConfig(
                    r=self.config.rank,
                    lora_alpha=2 * self.config.rank,
                    target_modules="all-linear",
                    task_type="FEATURE_EXTRACTION",
                ),
            )
            self.head = nn.Linear(self.local.model.config.hidden_size, 1)
        self.trained = nn.ModuleList(
            [nn.ParameterList(p for p in self.model.parameters() if p.requires_grad), self.head]
        )
        self.optimizers: dict[torch.optim.Optimizer, float] = {
            torch.optim.Muon(
                list(self.trained[0].parameters()),
                lr=self.config.muon_lr,
                momentum=0.95,
                weight_decay=0.0,
            ): self.config.muon_lr,
            torch.optim.AdamW(
                self.head.parameters(), lr=self.config.adamw_lr, weight_decay=0.0
            ): self.config.adamw_lr,
        }
        self.step = 0
        if has_state(out / "training"):
            progress, _ = load_state(out / "training", self.trained, list(self.optimizers))
            self.step = progress["step"]

    def _batches(self, epoch: int) -> list[list[int]]:
        """Positions of the attempts of each batch of an epoch; of about equal lengths."""
        rng = np.random.default_rng((self.config.seed, epoch))
        order = rng.permutation(len(self.train.texts))
        lengths = [len(self.train.texts[i]) for i in order]
        batches = [order[batch].tolist() for batch in batches_by_length(lengths)]
        return [batches[i] for i in rng.permutation(len(batches))]

    def run(self, progress: Callable[[float, float], None] | None = None) -> dict[str, float]:
        """Train, calibrate and save.

        Args:
            progress: called with the share that is done and the loss.

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
        save_state(self.out / "training", self.trained, list(self.optimizers), progress)

    def _learn(self, batch: list[int], done: float) -> float:
        """One optimiser step; half of the loss is about the last tokens, half about all."""
        texts, data = [self.train.texts[i] for i in batch], self.train
        inputs, lengths = padded(texts, self.model.device)
        output = self.model(**inputs, use_cache=False, output_hidden_states=True, logits_to_keep=1)
        logits = self.head(output.hidden_states[-1])[:, :, 0]  # (B, L)
        begins, errs = (
            torch.from_numpy(column[batch]).to(logits.device)[:, None]
            for column in (data.begins, data.errs)
        )  # (B, 1)
        columns = torch.arange(logits.shape[1], device=logits.device)  # (L,)
        errors = nn.functional.binary_cross_entropy_with_logits(
            logits, (columns < errs).float(), reduction="none"
        )  # (B, L)
        written = (columns >= begins) & (columns < lengths[:, None])  # (B, L)
        last = errors.gather(1, lengths[:, None] - 1)  # (B, 1)
        loss = (errors[written].mean() + last.mean()) / 2
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.trained.parameters(), 1.0)
        rate = min(1.0, done * 50) * 0.5 * (1 + math.cos(math.pi * done))
        for optimizer, peak in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = peak * rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    def _finish(self) -> dict[str, float]:
        self.model.eval()
        states = last_states(self.model, self.validation.texts, "default")
        weight = self.head.weight[0].detach()
        judged = self.validation
        score = ScoreHead(
            weight=weight,
            calibration=calibrate((states @ weight).numpy(), judged.logprobs, judged.right),
        )
        save_adapter(self.model, self.out, base_digest=self.local.digest, score=score)
        probability = score.probability(states, torch.from_numpy(judged.logprobs).float()).numpy()
        return {
            "auroc": auroc(probability, judged.right),
            "ece": expected_calibration_error(probability, judged.right),
        }


def calibrate(raw: Floats, logprobs: Floats, right: NDArray[np.bool_]) -> Tensor:
    """Calibration of a `ScoreHead`.

    Args:
        raw: (n,) scores of the weights alone.
        logprobs: (n, 2).
        right: (n,).
    """
    rows = []
    for known in (logprobs, np.zeros_like(logprobs)):
        features = np.column_stack([raw, known, np.ones(len(raw))])  # (n, 4)
        scale = features.std(0) + 1e-6
        scale[-1] = 1.0
        rows.append(_logistic(features / scale, right) / scale)
    return torch.from_numpy(np.stack(rows)).float()


def _logistic(features: Floats, right: NDArray[np.bool_]) -> Floats:
    """Weights of a logistic regression, (features,)."""

    def loss(weights: Floats) -> tuple[float, Floats]:
        logits = features @ weights
        error = 1 / (1 + np.exp(-logits)) - right
        value = np.mean(np.logaddexp(0, logits) - right * logits)
        return float(value), features.T @ error / len(right)

    return np.asarray(minimize(loss, np.zeros(features.shape[1]), jac=True).x)


def auroc(score: Floats, right: NDArray[np.bool_]) -> float:
    """Chance that a right attempt scores above a wrong one; ties count half.

    >>> auroc(np.array([0.1, 0.4, 0.8]), np.array([False, True, True]))
    1.0
    """
    from scipy.stats import rankdata

    positives = int(right.sum())
    ranks = rankdata(score)[right].sum() - positives * (positives + 1) / 2
    return float(ranks / (positives * (len(right) - positives)))


def expected_calibration_error(
    probability: Floats, right: NDArray[np.bool_], bins: int = 15
) -> float:
    """Mean gap between probability and share of right attempts, over bins of equal width.

    Source: Guo et al. 2017 (arXiv 1706.04599), eq. 3.

    >>> expected_calibration_error(np.array([0.25] * 4), np.array([True, False, False, False]))
    0.0
    """
    place = np.minimum((probability * bins).astype(int), bins - 1)
    gaps = np.bincount(place, probability - right, bins)
    return float(np.abs(gaps).sum() / len(right))
