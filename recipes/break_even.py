"""The number of questions from which preparing a session pays, and rules that go by it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from controller.process.lockstep import Bools, Floats
from envs.sessions.table import ANSWER_SMALL, LOOK_UP, WAIT, Expected, Sessions, SessionTable


class ClosedForm:
    """The best decisions of one who knows a context by its kind, in closed form.

    A question is worth the most that an arm brings, `v`; one that was prepared for, the larger of
    `v` and of the chance `q` that its note is right. Every question is one of the likely with
    probability p, whichever were asked before, so what notes bring is linear in the expected
    number n of questions: (q - v)+ of each half that the notes cover, weighted by p and 1 - p. They
    pay from

        n* = idle price x cost of the notes / (p (q - v)+ of likely + (1 - p) (q - v)+ of others)
    """

    def __init__(self, table: SessionTable) -> None:
        half, count = table.most, len(table.kinds)
        own = [table.kind == kind for kind in range(count)]

        def means(x: NDArray[np.generic]) -> Floats:
            """(A, D, 2) of (A, C, Q, K): by kind and half."""
            halves = x.reshape(len(x), len(table.kind), 2, half, table.ways)
            return np.stack([halves[:, rows].mean((1, 3, 4)) for rows in own], 1)

        self.right, self.cost, self.steps = (
            means(table.right),
            means(table.cost),
            means(table.steps),
        )
        self.note_right = means(table.note_right)
        self.note_cost = np.stack([table.note_cost[:, rows].mean((1, 2)) for rows in own], 1)
        self._noted = table.noted()[:, ::half]  # (L, 2)

    def answering(self, kind: NDArray[np.int64], expected: Expected) -> Floats:
        """What the small and the large model bring at each half, (2, N, 2)."""
        wake, step = expected.wake_price[:, None], expected.step_price[:, None]
        paid = wake * self.cost[:, kind] + step * self.steps[:, kind]
        return np.asarray(self.right[:, kind] - paid)

    def rates(self, kind: NDArray[np.int64], expected: Expected) -> Floats:
        """What notes of each level bring per question that is asked, (L, N)."""
        worth = self.answering(kind, expected).max(0)  # (N, 2)
        gains = np.maximum(self.note_right[:, kind] - worth, 0) * self._noted[:, None]  # (L, N, 2)
        likely = expected.predictability
        return np.asarray(gains[..., 0] * likely + gains[..., 1] * (1 - likely))

    def break_even(self, kind: NDArray[np.int64], expected: Expected) -> Floats:
        """Expected number of questions from which each level pays, (L, N); inf for never."""
        with np.errstate(divide="ignore"):
            paid = expected.idle_price * self.note_cost[:, kind]
            return np.asarray(paid / self.rates(kind, expected))

    def levels(self, kind: NDArray[np.int64], expected: Expected) -> Floats:
        """What doing without and each level bring beyond doing without, (L + 1, N)."""
        gained = expected.questions * self.rates(kind, expected)
        paid = expected.idle_price * self.note_cost[:, kind]
        return np.concatenate([np.zeros((1, len(kind))), gained - paid])

    def value(self, kind: NDArray[np.int64], expected: Expected) -> Floats:
        """Expected reward of a session, (N,), under the best decisions."""
        worth, p = self.answering(kind, expected).max(0), expected.predictability
        without = expected.questions * (p * worth[:, 0] + (1 - p) * worth[:, 1])
        return np.asarray(without + self.levels(kind, expected).max(0))


class Planned:
    """Decides by rule what to prepare, and by `ClosedForm` what a question deserves.

    It prepares a level, 1 to L, where at least so many questions are expected; without one, the
    best level where that pays by the closed form.
    """

    def __init__(self, exact: ClosedForm, level: int | None = None, least: float = 0.0) -> None:
        self.exact, self.level, self.least = exact, level, least

    def act(self, sessions: Sessions, mask: Bools) -> NDArray[np.int64]:
        """One allowed action per session, (N,)."""
        kind, e = sessions.table.kind[sessions.context], sessions.expected
        if self.level is None:
            level = self.exact.levels(kind, e).argmax(0)
        else:
            level = np.where(e.questions >= self.least, self.level, WAIT)
        rows, half = np.arange(len(kind)), (sessions.current >= sessions.table.most).astype(int)
        worth = self.exact.answering(kind, e)[:, rows, half]  # (2, N)
        prepared = np.maximum(sessions.level, 1) - 1
        noted = self.exact.note_right[prepared, kind, half]
        answer = ANSWER_SMALL + worth.argmax(0)
        answer = np.where(mask[:, LOOK_UP] & (noted >= worth.max(0)), LOOK_UP, answer)
        return np.where(sessions.waking, answer, level).astype(np.int64)
