"""Recorded questions by the context that they are about, as arrays.

A trace set holds sessions if its ids are `CONTEXT/LEVEL/NUMBER`, with as many questions of level 1,
which are likely to be asked, as of level 2, which are not. `allot record --questions` makes one of
questions that are named so, by any models; the last one writes the notes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.errors import TraceFormatError
from controller.process.lockstep import Bools, Floats
from envs.traces.derive import cost_model
from envs.traces.format import TraceSet
from envs.traces.table import TraceTable, build_table

LEVELS = ("likely", "all", "vote")
"""What notes hold: an answer to each likely question; to every one; the majority's of
`VOTERS` attempts at each likely one."""

VOTERS = 3
SMALL, LARGE = 0, 1


@dataclass(frozen=True, kw_only=True)
class SessionTable:
    """C contexts, Q questions about each, the likely half first, and K ways that attempts fell out.

    Attributes:
        contexts: names, (C,).
        kinds: names of the kinds of contexts, (D,).
        kind: of each context, (C,).
        lengths: mean tokens of a context's questions, (C,).
        right: whether the answer by the small and the large model is right, (2, C, Q, K).
        cost: of that, in tokens of the small model, (2, C, Q, K).
        steps: tokens of that which are written one after the other, (2, C, Q, K).
        note_right: whether the note by each level is right, (L, C, Q, K); False where a level
            writes none.
        note_cost: of all notes of each level, (L, C, K).
    """

    contexts: tuple[str, ...]
    kinds: tuple[str, ...]
    kind: NDArray[np.int64]
    lengths: Floats
    right: Bools
    cost: Floats
    steps: Floats
    note_right: Bools
    note_cost: Floats

    @property
    def most(self) -> int:
        """Questions that are likely to be asked about a context, as many as those that are not."""
        return int(self.right.shape[2]) // 2

    @property
    def ways(self) -> int:
        """K."""
        return int(self.right.shape[3])

    def noted(self) -> Bools:
        """Questions that each level has notes on, (L, Q)."""
        likely = np.arange(2 * self.most) < self.most
        return np.stack([likely, likely | True, likely])


def read_sessions(traces: TraceSet, splits: Iterable[str]) -> SessionTable:
    """Sessions of some splits of a trace set.

    Raises:
        TraceFormatError: questions are not grouped by contexts, or fewer than two models or than
            `VOTERS` + 1 attempts by the last one are recorded.
    """
    table = build_table(traces, splits)
    names = [question.rsplit("/", 2) for question in table.question_ids]
    if any(len(name) != 3 for name in names):
        raise TraceFormatError(f"{traces.path}: expected question ids CONTEXT/LEVEL/NUMBER")
    contexts = list(dict.fromkeys(name[0] for name in names))
    order = np.array(sorted(range(len(names)), key=lambda q: (contexts.index(names[q][0]), q)))
    order = order[np.lexsort((table.levels[order], [contexts.index(names[q][0]) for q in order]))]
    each, left = divmod(len(order), len(contexts))
    levels = table.levels[order]
    if left or each % 2 or (levels.reshape(-1, 2, each // 2) != [[1], [2]]).any():
        raise TraceFormatError(
            f"{traces.path}: expected as many questions of level 1 as of level 2 about each context"
        )
    ways = int(table.stream_length[:, -1].min())
    if table.stream.shape[1] < 2 or ways <= VOTERS:
        raise TraceFormatError(
            f"{traces.path}: expected two models and at least {VOTERS + 1} attempts by the last, "
            f"found {table.stream.shape[1]} and {ways}"
        )
    weights = np.array(cost_model(traces.models()).weights)
    shape = len(contexts), each
    return SessionTable(
        contexts=tuple(contexts),
        **_kinds(np.array(table.datasets)[order].reshape(shape)[:, 0]),
        lengths=table.prompt_tokens[order, 0].reshape(shape).mean(1).astype(float),
        **_outcomes(table, order, shape, ways, weights[[0, -1]] / weights[0]),
    )


def _kinds(datasets: NDArray[Any]) -> dict[str, Any]:
    names, kind = np.unique(datasets, return_inverse=True)
    return {"kinds": tuple(map(str, names)), "kind": kind.astype(np.int64)}


def _outcomes(
    table: TraceTable,
    order: NDArray[np.int64],
    shape: tuple[int, int],
    ways: int,
    weights: Floats,
) -> dict[str, Any]:
    """What attempts come to: in way k notes are the large model's attempts from k on, in a circle.

    What it is asked when somebody waits is the attempt after those, so that it is not a note.
    """
    here = np.arange(ways)
    small = table.stream[order, 0][:, here % table.stream_length[:, 0].min()]  # (CQ, K)
    large = table.stream[order, -1][:, here]  # (CQ, K)
    fresh = np.roll(large, -VOTERS, 1)
    asked = np.stack([small, fresh])  # (2, CQ, K)
    back = np.argsort(order)
    right, prompts = (
        np.stack([table.right(x[back])[order] for x in (small, fresh)]),
        table.prompt_tokens[order][:, [0, -1]].T[..., None],  # (2, CQ, 1)
    )
    written = table.attempts["completion_tokens"]
    steps = written[asked].astype(float)
    once = table.right(large[back])[order]  # (CQ, K)
    circle = np.stack([np.roll(large, -i, 1) for i in range(VOTERS)])  # (V, CQ, K)
    votes = table.attempts["answer"][circle]
    won = _majority(votes)
    correct = table.answer_correct[order]
    voted = np.take_along_axis(correct, np.maximum(won, 0), 1) & (won >= 0)
    single = (prompts[1] + written[large]) * weights[1]  # (CQ, K)
    several = (prompts[1] + written[circle].sum(0)) * weights[1]
    likely = np.arange(shape[1]) < shape[1] // 2
    costs = [single, single, several]
    covered = [likely, likely | True, likely]
    wide = (2, *shape, ways)
    return {
        "right": right.reshape(wide),
        "cost": ((prompts + steps) * weights[:, None, None]).reshape(wide),
        "steps": steps.reshape(wide),
        "note_right": np.stack(
            [
                x.reshape(*shape, ways) & notes[:, None]
                for x, notes in zip((once, once, voted), covered, strict=True)
            ]
        ),
        "note_cost": np.stack(
            [
                (x.reshape(*shape, ways) * notes[:, None]).sum(1)
                for x, notes in zip(costs, covered, strict=True)
            ]
        ),
    }


def _majority(votes: NDArray[np.int32]) -> NDArray[np.int32]:
    """The answer that most of V votes are for, (CQ, K); the earliest of those that tie."""
    same = (votes[:, None] == votes[None]) & (votes[None] >= 0)  # (V, V, CQ, K)
    best = same.sum(1).argmax(0)
    return np.asarray(np.take_along_axis(votes, best[None], 0)[0])
