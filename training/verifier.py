"""The verifier: a LoRA adapter and a head that tell how likely an attempt is right.

It reads question and attempt in one forward pass of the small model. Trained by
cross-entropy on recorded attempts at questions of its own pool, then calibrated on others of
them by logistic regression (Platt 1999) on its score and the attempt's log-probabilities.
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
from training.adapter_data import AttemptText, attempts_by_question, distinct
from training.state import has_state, load_state, save_state

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class VerifierConfig:
    """Training of the verifier.

    Attributes:
        rank: of the LoRA matrices.
        epochs: passes over the attempts.
        batch_tokens: padded tokens per optimiser step.
        learning_rate: peak; falls along a cosine.
        head_learning_rate: of the head.
        save_every: optimiser steps between saved states.
        seed: of weights and order.
    """

    rank: int = 16
    epochs: int = 4
    batch_tokens: int = 8192
    learning_rate: float = 4e-3
    head_learning_rate: float = 1e-2
    save_every: int = 500
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Judged:
    """n attempts as token ids of question and attempt, with what is known of each.

    Attributes:
        texts: n of them.
        right: (n,).
        logprobs: mean and least log-probability of the tokens, (n, 2).
    """

    texts: list[tuple[int, ...]]
    right: NDArray[np.bool_]
    logprobs: Floats


def judged_attempts(groups: Iterable[Iterable[AttemptText]], local: LocalModel) -> Judged:
    """Recorded attempts, question by question, ready for the verifier."""
    attempts = [attempt for group in groups for attempt in group]
    return Judged(
        texts=[
            local.encode_chat(judged_messages(a.question, a.text), complete=True) for a in attempts
        ],
        right=np.array([a.right for a in attempts]),
        logprobs=np.array([a.logprobs for a in attempts], np.float64).reshape(-1, 2),
    )


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
            [group for t in traces for _, group in attempts_by_question(t, split)]
            for split in ("train", "validation")
        )
        self.train = judged_attempts(map(distinct, known), self.local)
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
        self.optimizer = torch.optim.AdamW(
            [
                {"params": list(self.trained[0].parameters()), "lr": self.config.learning_rate},
                {"params": list(self.head.parameters()), "lr": self.config.head_learning_rate},
            ],
            weight_decay=0.01,
        )
        self._peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.step = 0
        if has_state(out / "training"):
            progress, _ = load_state(out / "training", self.trained, [self.optimizer])
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
        save_state(self.out / "training", self.trained, [self.optimizer], progress)

    def _learn(self, batch: list[int], done: float) -> float:
        for group, peak in zip(self.optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * min(1.0, done * 50) * 0.5 * (1 + math.cos(math.pi * done))
        inputs, lengths = padded([self.train.texts[i] for i in batch], self.model.device)
        output = self.model(**inputs, use_cache=False, output_hidden_states=True)
        rows = torch.arange(len(batch), device=self.model.device)
        logits = self.head(output.hidden_states[-1][rows, lengths - 1])[:, 0]  # (B,)
        target = torch.from_numpy(self.train.right[batch]).float().to(logits.device)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, target)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.trained.parameters(), 1.0)
        self.optimizer.step()
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
