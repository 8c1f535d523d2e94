"""What an import holds of each model on each data set, and what is doubtful about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_FEW = 20
"""Attempts below which a share tells nothing."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Attempts of one model on one data set.

    Attributes:
        model: its name.
        dataset: its name, "" for none.
        questions: how many.
        attempts: how many.
        read: share of attempts that have an answer.
        right: share of attempts that are right.
        majority: share of questions whose most frequent answer is right.
        tokens: per attempt.
        guessed: share of attempts whose tokens were estimated.
        repeated: share of further attempts at a question whose text was there before.
        disputed: answers that are right in one attempt at a question and wrong in another.
    """

    model: str
    dataset: str
    questions: int
    attempts: int
    read: float
    right: float
    majority: float
    tokens: float
    guessed: float
    repeated: float
    disputed: int

    @property
    def shown(self) -> dict[str, Any]:
        """What people look at; ~ marks tokens that were guessed."""
        return {
            "model": self.model,
            "questions": self.questions,
            "attempts": self.attempts,
            "read": self.read,
            "right": self.right,
            "majority": self.majority,
            "tokens": f"{'~' if self.guessed else ''}{self.tokens:.0f}",
        }


def groups(
    columns: Mapping[str, Array], models: Sequence[str], datasets: Sequence[str]
) -> list[Group]:
    """One group for each model and data set that has attempts.

    Args:
        columns: of M attempts, (M,) each: question, model, dataset, tokens, correct,
            guessed_tokens, and digests of answer and text, 0 for none.
        models: names by number.
        datasets: names by number.
    """
    number = columns["model"].astype(np.int64) * len(datasets) + columns["dataset"]
    found = []
    for group in np.unique(number):
        part = {name: column[number == group] for name, column in columns.items()}
        model, dataset = divmod(int(group), len(datasets))
        attempts, questions = len(part["question"]), len(np.unique(part["question"]))
        majority, disputed = _majority(part["question"], part["answer"], part["correct"])
        found.append(
            Group(
                model=models[model],
                dataset=datasets[dataset],
                questions=questions,
                attempts=attempts,
                read=float((part["answer"] != 0).mean()),
                right=float(part["correct"].mean()),
                majority=majority / questions,
                tokens=float(part["tokens"].mean()),
                guessed=float(part["guessed_tokens"].mean()),
                repeated=_repeated(part["question"], part["text"], attempts - questions),
                disputed=disputed,
            )
        )
    return found


def _majority(question: Array, answer: Array, correct: Array) -> tuple[int, int]:
    """Questions whose most frequent answer is right, and answers with both verdicts."""
    given = np.flatnonzero(answer)
    order = given[np.lexsort((answer[given], question[given]))]
    if not len(order):
        return 0, 0
    new = np.ones(len(order), bool)
    new[1:] = (question[order][1:] != question[order][:-1]) | (
        answer[order][1:] != answer[order][:-1]
    )
    begin = np.flatnonzero(new)
    votes = np.diff([*begin, len(order)])
    right = np.add.reduceat(correct[order].astype(np.int64), begin)
    # Of equally many the one that was given first.
    first = np.minimum.reduceat(order, begin)
    owner = question[order][begin]
    by_votes = np.lexsort((first, -votes, owner))
    leads = by_votes[np.unique(owner[by_votes], return_index=True)[1]]
    disputed = int(((right > 0) & (right < votes)).sum())
    return int((correct[first[leads]] > 0).sum()), disputed


def _repeated(question: Array, text: Array, repeats: int) -> float:
    """Share of further attempts at a question that say what one said before."""
    known = np.flatnonzero(text)
    pairs = np.empty(len(known), [("question", question.dtype), ("text", text.dtype)])
    pairs["question"], pairs["text"] = question[known], text[known]
    return (len(pairs) - len(np.unique(pairs))) / repeats if repeats else 0.0


def doubts(found: Sequence[Group]) -> Iterator[str]:
    """What to warn of."""
    for group in found:
        who = f"{group.model} on {group.dataset}" if group.dataset else group.model
        if group.attempts >= _FEW and group.right in (0, 1):
            yield f"{who}: {group.right:.0%} of {group.attempts} attempts are right; is that so?"
        if group.repeated > 0.5:
            yield (
                f"{who}: {group.repeated:.0%} of further attempts at a question repeat a text, as "
                "at temperature 0, or from a log that is there twice"
            )
        if group.disputed:
            yield (
                f"{who}: {group.disputed} answers are right in one attempt and wrong in another at "
                "the same question; the verdict of the first one counts for all"
            )
