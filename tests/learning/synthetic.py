"""Problems with known success probabilities, so that the optimum can be computed.

Everything that a trained policy can know about one of these problems is a count of votes
and a hint about the prompt, a finite state: `optimum.py` solves it exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.errors import ConfigError
from controller.process.cost import CostModel
from controller.process.episodes import EpisodeConfig
from envs.traces.table import SIGNALS, TraceTable, attempt_type

_TOLERANCE = 1e-9
_LEAST_PROBABILITY = 1e-4


@dataclass(frozen=True, kw_only=True)
class QuestionType:
    """One kind of question; given it, attempts are independent draws of an answer.

    Attributes:
        share: probability that a question is of this type.
        small: probability that an attempt of the small model is right.
        large: the same for the large model.
        wrong: how wrong attempts divide among the wrong answers; sums to 1. Equal parts
            make a vote reliable, one big part makes it agree on the wrong answer.
        hints: (H,) probability of each hint that the prompt gives; sums to 1.
    """

    share: float
    small: float
    large: float
    wrong: tuple[float, ...] = (1 / 3, 1 / 3, 1 / 3)
    hints: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        for name in ("share", "small", "large"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}: expected 0..1, found {getattr(self, name)}")
        for name in ("wrong", "hints"):
            parts = getattr(self, name)
            if not parts or min(parts) < 0 or abs(sum(parts) - 1) > _TOLERANCE:
                raise ConfigError(f"{name}: expected parts that sum to 1, found {parts}")


TYPES = (
    QuestionType(share=0.2, small=0.98, large=0.99, hints=(0.7, 0.3, 0.0)),
    QuestionType(share=0.2, small=0.75, large=0.9, hints=(0.4, 0.55, 0.05)),
    QuestionType(share=0.2, small=0.45, large=0.75, hints=(0.1, 0.7, 0.2)),
    QuestionType(share=0.1, small=0.2, large=0.7, wrong=(0.8, 0.1, 0.1), hints=(0.1, 0.7, 0.2)),
    QuestionType(share=0.1, small=0.03, large=0.5, hints=(0.0, 0.4, 0.6)),
    QuestionType(share=0.2, small=0.02, large=0.03, hints=(0.0, 0.2, 0.8)),
)
"""From trivial over noisy, treacherous and out of the small model's reach to hopeless."""


@dataclass(frozen=True, kw_only=True)
class SyntheticFamily:
    """Two models, T question types and H hints.

    With more than one hint the policy reads the prompt and pays for it, as in
    `EpisodeConfig.reads_prompt`; giving up at once is then right for some questions at
    prices where others are worth an attempt.

    Attributes:
        types: kinds of questions.
        prompt_tokens: length of every prompt.
        completion_tokens: length of every attempt.
        large_cost: cost of one token of the large model, in small-model tokens.
        large_votes: votes that an answer of the large model counts for.
        max_samples: SAMPLE attempts per episode.
        max_escalations: ESCALATE attempts per episode.
    """

    types: tuple[QuestionType, ...] = TYPES
    prompt_tokens: int = 40
    completion_tokens: int = 160
    large_cost: float = 20.0
    large_votes: int = 2
    max_samples: int = 8
    max_escalations: int = 2

    def __post_init__(self) -> None:
        total = sum(t.share for t in self.types)
        if abs(total - 1) > _TOLERANCE:
            raise ConfigError(f"types: expected shares that sum to 1, found {total}")
        if len({len(t.hints) for t in self.types}) > 1:
            found = [len(t.hints) for t in self.types]
            raise ConfigError(f"hints: expected equally many for each type, found {found}")
        if self.prior.sum(0).min() == 0:
            found = self.prior.sum(0).tolist()
            raise ConfigError(f"hints: expected each to be given at times, found {found}")
        self.config()

    @property
    def num_answers(self) -> int:
        """K, the right answer and the wrong ones."""
        return 1 + max(len(t.wrong) for t in self.types)

    @property
    def num_hints(self) -> int:
        """H."""
        return len(self.types[0].hints)

    @property
    def prior(self) -> NDArray[np.float64]:
        """Probability of each type and hint together, (T, H)."""
        return np.array([[t.share * hint for hint in t.hints] for t in self.types])

    @property
    def answer_probabilities(self) -> NDArray[np.float64]:
        """Probability that an attempt gives each answer, the right one first, (T, 2, K)."""
        probabilities = np.zeros((len(self.types), 2, self.num_answers))  # (T, 2, K)
        for row, t in zip(probabilities, self.types, strict=True):
            right = np.array([t.small, t.large])
            row[:, 0] = right
            row[:, 1 : 1 + len(t.wrong)] = (1 - right)[:, None] * np.array(t.wrong)
        return probabilities

    @property
    def hint_difficulty(self) -> NDArray[np.float64]:
        """Log-odds that an attempt is right, given the hint, per hint and rung, (H, 2)."""
        prior = self.prior
        right = prior.T @ self.answer_probabilities[:, :, 0] / prior.sum(0)[:, None]  # (H, 2)
        right = right.clip(_LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
        return np.asarray(np.log(right / (1 - right)))

    def config(self) -> EpisodeConfig:
        """The decision process; the cost unit is what a first small attempt costs."""
        return EpisodeConfig(
            cost=CostModel(weights=(1.0, self.large_cost)),
            vote_weights=(1, self.large_votes),
            mean_completion_tokens=(self.completion_tokens,) * 2,
            max_completion_tokens=(self.completion_tokens,) * 2,
            cost_unit=self.prompt_tokens + self.completion_tokens,
            max_samples=self.max_samples,
            max_revisions=0,
            max_escalations=self.max_escalations,
            reads_prompt=self.num_hints > 1,
        )

    def difficulty(self, table: TraceTable) -> NDArray[np.float64] | None:
        """Difficulty of a drawn table's questions, (Q, 2); None when prompts tell nothing."""
        return self.hint_difficulty[table.levels - 1] if self.num_hints > 1 else None

    def table(self, num_questions: int, seed: int) -> TraceTable:
        """Draw questions, each with as many attempts as an episode can make.

        A question's level is its hint, from 1. Answer ids are shuffled per question, so
        that they tell nothing about which one is right.

        Args:
            num_questions: Q.
            seed: everything random follows from it.
        """
        if num_questions < 1:
            raise ConfigError(f"num_questions: expected at least 1, found {num_questions}")
        rng = np.random.default_rng(np.random.SeedSequence(seed))
        prior = self.prior
        cell = rng.choice(prior.size, num_questions, p=prior.ravel() / prior.sum())  # (Q,)
        kind, hint = np.divmod(cell, prior.shape[1])
        rungs = np.repeat([0, 1], [self.max_samples, self.max_escalations])  # (M / Q,)
        edges = self.answer_probabilities.cumsum(-1)[kind][:, rungs]  # (Q, M / Q, K)
        uniform = rng.random((num_questions, len(rungs), 1))
        drawn = (uniform >= edges[..., :-1]).sum(-1)  # (Q, M / Q), 0 is right
        names = rng.permuted(np.tile(np.arange(self.num_answers), (num_questions, 1)), axis=1)
        answer = np.take_along_axis(names, drawn, axis=1)
        correct = names[:, :1] == np.arange(self.num_answers)  # (Q, K)
        return self._arrange(answer.ravel(), correct, hint + 1, rungs)

    def _arrange(
        self,
        answer: NDArray[np.int64],
        correct: NDArray[np.bool_],
        levels: NDArray[np.int64],
        rungs: NDArray[np.int64],
    ) -> TraceTable:
        q, m = len(correct), len(answer)
        longest = max(self.max_samples, self.max_escalations)
        stream = np.full((q, 2, longest), -1, np.int32)  # (Q, 2, S)
        places = np.arange(m).reshape(q, len(rungs))
        stream[:, 0, : self.max_samples] = places[:, : self.max_samples]
        stream[:, 1, : self.max_escalations] = places[:, self.max_samples :]
        attempts = np.zeros(m, attempt_type())  # (M,)
        attempts["rung"], attempts["answer"], attempts["row"] = np.tile(rungs, q), answer, range(m)
        attempts["prompt_tokens"] = self.prompt_tokens
        attempts["completion_tokens"] = self.completion_tokens
        for name in SIGNALS:
            attempts[name] = np.nan
        return TraceTable(
            question_ids=tuple(str(i) for i in range(q)),
            datasets=("synthetic",) * q,
            levels=levels,
            prompt_tokens=np.full((q, 2), self.prompt_tokens),
            hidden=None,
            stream=stream,
            stream_length=(stream >= 0).sum(2),
            answer_correct=correct,
            answers=(tuple(str(k) for k in range(self.num_answers)),) * q,
            attempts=attempts,
            revisers=(),
            children=np.zeros((len(attempts), 0, 2), np.int32),
        )
