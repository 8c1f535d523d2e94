"""Attempts at temperature 0: what repairing sampled ones is up against."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from controller.backends.base import Request, run_now
from controller.backends.local.backend import TransformersBackend, load_model
from controller.process.actions import ActionKind
from controller.process.cost import CostModel
from controller.process.types import Question
from envs.granularity import AnyTraces
from envs.questions.grader import KindGrader
from training.compare.simulate import Played

GREEDY = ("greedy small attempt", "greedy large attempt")


def play_greedy(
    traces: AnyTraces, questions: Sequence[Question], cost: CostModel
) -> dict[str, Played]:
    """One attempt at each question by each model of the traces, at temperature 0.

    Args:
        traces: tell where the models lie.
        questions: with references.
        cost: ledger.
    """
    entries = list(traces.manifest["models"].values())
    models = [load_model(traces.path / e["path"], rung) for rung, e in enumerate(entries)]
    longest = int(traces.models()[0].max_new_tokens or 1)
    backend = TransformersBackend(models, temperature=0, max_new_tokens=longest)
    grader, played = KindGrader(), {}
    for rung, name in enumerate(GREEDY[: len(models)]):
        action = ActionKind.ESCALATE if rung else ActionKind.SAMPLE
        requests = [Request(question=q, action=action, rung=rung) for q in questions]
        attempts = run_now(backend.attempts(requests))
        tokens = np.array([a.prompt_tokens + a.completion_tokens for a in attempts], np.float64)
        right = [grader.is_right(q, a.answer) for q, a in zip(questions, attempts, strict=True)]
        made = np.zeros((len(questions), 4))
        made[:, 2 * rung] = 1
        played[name] = Played(
            right=np.array(right, np.float64),
            cost=cost.weights[rung] * tokens,
            tokens=tokens,
            rounds=np.ones(len(questions)),
            actions=made,
        )
    return played
