"""What a controller would have made of questions that a service has answered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from controller.backends.base import Backend, Request, Wrapped
from controller.backends.identity import attempt_id
from controller.card import Interval
from controller.errors import BackendError, ConfigError
from controller.loop import Controller
from controller.process.actions import ActionKind
from controller.process.cost import CostModel
from controller.process.terms import Terms
from controller.process.types import Attempt, Question
from envs.records import Row
from training.compare.summary import Bootstrap

Right = Callable[[Question, str | None], bool | None]
"""Whether an answer is right; None where nobody knows."""


class NotLoggedError(BackendError):
    """A controller asks for an attempt that the log has not, and nothing may be spent."""


class LoggedFirst(Wrapped):
    """Gives the attempts that a log has of a question, and makes others up to a cap.

    Attempts that are under way when the cap, in small-model tokens, is reached are made. The
    backend that makes them never suspends.
    """

    def __init__(self, backend: Backend, cost: CostModel, cap: float) -> None:
        super().__init__(backend)
        self._weights, self._cap, self.spent = cost.weights, cap, 0.0
        self.logged: Mapping[str, Attempt] = {}

    async def attempts(self, requests: Sequence[Request]) -> list[Attempt]:
        """See `Backend.attempts`.

        Raises:
            NotLoggedError: one is not in the log, and the cap is reached.
        """
        ids = [attempt_id(self.models[request.rung].name, request) for request in requests]
        missing = [r for name, r in zip(ids, requests, strict=True) if name not in self.logged]
        if missing and self.spent >= self._cap:
            raise NotLoggedError("shadow: expected attempts of the log, found none")
        made = await super().attempts(missing) if missing else []
        self.spent += sum(self._weights[a.rung] * a.usage.processed_tokens for a in made)
        new = iter(made)
        return [self.logged[name] if name in self.logged else next(new) for name in ids]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A mean over questions, served and as the controller would have it; 95% interval."""

    quantity: str
    questions: int
    served: float
    controller: float
    difference: float
    interval: Interval


@dataclass(frozen=True, kw_only=True)
class Shadow:
    """What would have been saved and lost.

    Attributes:
        left_out: questions for which the log and the cap had too few attempts.
        spent: on new attempts, in small-model tokens.
        same: share of questions with the answer that was served.
    """

    figures: tuple[Figure, ...]
    left_out: int
    spent: float
    same: float


def shadow(rows: Iterable[Row], controller: Controller, right: Right) -> Shadow:
    """Answer logged questions, with their texts, at the terms that they came with.

    The controller is before a `LoggedFirst`; `right` grades. Rows whose client left are passed
    over.

    Raises:
        ConfigError: a log of other models, without texts, or too short.
    """
    backend = controller.backend
    assert isinstance(backend, LoggedFirst)
    found: list[tuple[float, ...]] = []  # costs, whether right, price; of both, served first
    same, left_out = 0, 0
    for row in rows:
        if "cancelled" in row["limited"]:
            continue
        question = _question(row, [model.name for model in backend.models])
        terms = Terms(price=row["price"], round_price=row["round_price"], budget=row["budget"])
        made = [_attempt(question, entry) for entry in row["attempts"] if entry["error"] is None]
        backend.logged = {attempt.attempt_id: attempt for attempt in made}
        try:
            outcome = controller.answer(question, terms)
        except NotLoggedError:
            left_out += 1
            continue
        same += outcome.answer == row["answer"]
        graded = [right(question, answer) for answer in (row["answer"], outcome.answer)]
        known = (float("nan") if one is None else float(one) for one in graded)
        found.append((row["cost"], outcome.cost, *known, row["price"]))
    if len(found) < 2:
        raise ConfigError(
            f"log: expected at least 2 questions that can be replayed, found {len(found)} and "
            f"{left_out} that need more attempts; allow some with --spend"
        )
    table = np.array(found)  # (Q, 5)
    graded_rows = table[~np.isnan(table[:, 2:4]).any(axis=1)]
    utility = graded_rows[:, 2:4] - graded_rows[:, 4:] * graded_rows[:, :2]
    named = {"cost": table[:, :2], "accuracy": graded_rows[:, 2:4], "utility": utility}
    figures = tuple(_figure(name, both) for name, both in named.items() if len(both) > 1)
    return Shadow(figures=figures, left_out=left_out, spent=backend.spent, same=same / len(found))


def _figure(quantity: str, both: Any) -> Figure:
    """Of values as served and as the controller has them, (Q, 2)."""
    more = both[:, 1] - both[:, 0]
    served, own = both.mean(axis=0).tolist()
    return Figure(
        quantity=quantity,
        questions=len(both),
        served=served,
        controller=own,
        difference=float(more.mean()),
        interval=Bootstrap(len(both)).interval(more),
    )


def _question(row: Row, names: Sequence[str]) -> Question:
    logged = [model["name"] for model in row["models"]]
    if logged != list(names):
        raise ConfigError(
            f"models: expected those of the log, {logged}, found {list(names)}; name them with "
            "NAME=URL#MODEL"
        )
    if row["question"] is None or row["answers_hidden"]:
        raise ConfigError("log: expected one with texts, written with --log-texts")
    conversation = row.get("conversation") or {}
    return Question(
        question_id=row["question_id"],
        text=row["question"],
        history=tuple(conversation.get("history", ())),
        since=tuple(conversation.get("since", ())),
        fields=conversation.get("fields", {}),
    )


def _attempt(question: Question, entry: Row) -> Attempt:
    """As it was; its id ends with its number."""
    known = {name: entry[name] for name in Attempt.__dataclass_fields__ if name in entry}
    return Attempt(
        **known
        | {
            "question_id": question.question_id,
            "action": ActionKind(entry["action"]),
            "index": int(entry["attempt_id"].rpartition(":")[2]),
        }
    )
