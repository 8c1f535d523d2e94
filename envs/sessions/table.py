"""Recorded questions by the context that they are about, as arrays, and sessions over them.

A trace set holds sessions if its ids are `CONTEXT/LEVEL/NUMBER`, with as many questions of level 1,
which are likely to be asked, as of level 2, which are not. `allot record --questions` makes one of
questions that are named so, by any models; the last one writes the notes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.errors import ConfigError, TraceFormatError
from controller.process.lockstep import Array, Bools, Floats, Ints, Singles
from envs.draws import Streams, refuse_unknown
from envs.reward import LogUniform
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
    kind: Ints
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
        return _noted(2 * self.most)


def _noted(each: int) -> Bools:
    likely = np.arange(each) < each // 2
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
    place = np.array([contexts.index(name[0]) for name in names])
    table = table.take(np.lexsort((table.levels, place)))
    each, left = divmod(len(table), len(contexts))
    if left or each % 2 or (table.levels.reshape(-1, 2, each // 2) != [[1], [2]]).any():
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
    kinds, kind = np.unique(np.array(table.datasets)[::each], return_inverse=True)
    return SessionTable(
        contexts=tuple(contexts),
        kinds=tuple(map(str, kinds)),
        kind=kind.astype(np.int64),
        lengths=table.prompt_tokens[:, 0].reshape(-1, each).mean(1).astype(float),
        **_outcomes(table, each, ways, weights[[0, -1]] / weights[0]),
    )


def _outcomes(table: TraceTable, each: int, ways: int, weights: Floats) -> dict[str, Any]:
    """What attempts come to: in way k notes are the large model's attempts from k on, in a circle.

    What it is asked when somebody waits is the attempt after those, so that it is not a note.
    """
    here = np.arange(ways)
    small = table.stream[:, 0][:, here % table.stream_length[:, 0].min()]  # (CQ, K)
    large = table.stream[:, -1][:, here]  # (CQ, K)
    asked = np.stack([small, np.roll(large, -VOTERS, 1)])  # (2, CQ, K)
    prompts = table.prompt_tokens[:, [0, -1]].T[..., None]  # (2, CQ, 1)
    written = table.attempts["completion_tokens"]
    steps = written[asked].astype(float)
    once = table.right(large)  # (CQ, K)
    circle = np.stack([np.roll(large, -i, 1) for i in range(VOTERS)])  # (V, CQ, K)
    won = _majority(table.attempts["answer"][circle])
    voted = np.take_along_axis(table.answer_correct, np.maximum(won, 0), 1) & (won >= 0)
    single = (prompts[1] + written[large]) * weights[1]  # (CQ, K)
    several = (prompts[1] + written[circle].sum(0)) * weights[1]
    wide, noted = (-1, each, ways), _noted(each)[:, :, None]
    costs = zip((single, single, several), noted, strict=True)
    return {
        "right": np.reshape([*map(table.right, asked)], (2, *wide)),
        "cost": ((prompts + steps) * weights[:, None, None]).reshape(2, *wide),
        "steps": steps.reshape(2, *wide),
        "note_right": np.reshape([once, once, voted], (len(LEVELS), *wide)) & noted[:, None],
        "note_cost": np.stack([(cost.reshape(wide) * level).sum(1) for cost, level in costs]),
    }


def _majority(votes: NDArray[np.int32]) -> NDArray[np.int32]:
    """The answer that most of V votes are for, (CQ, K); the earliest of those that tie."""
    same = (votes[:, None] == votes[None]) & (votes[None] >= 0)  # (V, V, CQ, K)
    best = same.sum(1).argmax(0)
    return np.asarray(np.take_along_axis(votes, best[None], 0)[0])


WAIT, ANSWER_SMALL, ANSWER_LARGE, LOOK_UP = 0, len(LEVELS) + 1, len(LEVELS) + 2, len(LEVELS) + 3
ACTIONS = (
    "wait",
    *(f"prepare({level})" for level in LEVELS),
    "answer(small)",
    "answer(large)",
    "look up",
)
WAKE_PRICES = LogUniform(low=3e-5, high=1e-3)
"""Accuracy per token of the small model while somebody waits."""

IDLE_SHARES = LogUniform(low=0.03, high=1.0)
"""Price while nobody waits, relative to that."""

STEP_PRICES = LogUniform(low=1e-5, high=1e-3)
"""Accuracy per token that somebody waits for."""

LEAST_PREDICTABLE = 0.5


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What is known of N sessions before the first question; (N,) each.

    Attributes:
        questions: expected number of questions, of the M that there are at most.
        predictability: probability that a question is one of the likely.
        wake_price: accuracy per token of the small model while somebody waits.
        idle_price: the same while nobody does.
        step_price: accuracy per token that somebody waits for.
    """

    questions: Floats
    predictability: Floats
    wake_price: Floats
    idle_price: Floats
    step_price: Floats


OPTIONS = ("context", *(field.name for field in fields(Expected)))

_BEFORE = ("expected questions", "predictability", "wake price", "idle price", "step price")


class Sessions:
    """The state of N sessions over a table.

    Attributes:
        features: names of the entries of an observation.
        context, way: (N,) what is replayed.
        expected: (N,) each.
        count: questions that will be asked, (N,); not observed.
        level: what was prepared, (N,): 0 for nothing, -1 before that is decided.
        current: the question that is asked, (N,), -1 before the first.
        left: what was not asked yet, (N, Q).
        number_right, spent: over the session so far, (N,).
    """

    def __init__(self, table: SessionTable, num_sessions: int) -> None:
        self.table, rows = table, np.zeros(num_sessions, np.int64)
        self.features = (
            *(f"kind: {kind}" for kind in table.kinds),
            *("length", *_BEFORE, "woken", "likely", "noted"),
            *(f"prepared: {level}" for level in LEVELS),
        )
        self.context, self.way, self.count = rows.copy(), rows.copy(), rows.copy()
        self.level, self.current = rows - 1, rows - 1
        self.asked = rows.copy()
        self.left = np.ones((num_sessions, 2 * table.most), bool)
        self.number_right, self.spent = np.zeros(num_sessions), np.zeros(num_sessions)
        self.expected = Expected(**{f.name: np.ones(num_sessions) for f in fields(Expected)})
        self._noted = table.noted()

    def begin(self, rows: Array, streams: Streams, options: Mapping[str, Any]) -> None:
        """New sessions in `rows`, (n,), drawn but for what `options` say, a number or (n,) each.

        Raises:
            ConfigError: an unknown option, or one that is out of its range.
        """
        refuse_unknown(options, OPTIONS)
        table, most = self.table, self.table.most

        def draw() -> Floats:
            return streams.uniform(rows)

        drawn = {
            "context": np.floor(draw() * len(table.contexts)),
            "questions": draw() * most,
            "predictability": LEAST_PREDICTABLE + draw() * (1 - LEAST_PREDICTABLE),
            "wake_price": WAKE_PRICES.at(draw()),
            "idle_price": IDLE_SHARES.at(draw()),
            "step_price": STEP_PRICES.at(draw()),
        }
        idle_share = drawn.pop("idle_price")
        limits = {"context": len(table.contexts) - 1, "questions": most, "predictability": 1.0}
        for name, value in options.items():
            drawn[name] = np.broadcast_to(np.asarray(value, float), rows.shape)
            highest = limits.get(name, np.inf)
            if not ((drawn[name] >= 0) & (drawn[name] <= highest)).all():
                raise ConfigError(f"{name}: expected 0 to {highest:g}, found {value}")
        # Nobody pays more for what nobody waits for.
        if "idle_price" not in options:
            drawn["idle_price"] = idle_share * drawn["wake_price"]
        elif "wake_price" not in options:
            drawn["wake_price"] = np.maximum(drawn["wake_price"], drawn["idle_price"])
        if (drawn["idle_price"] > drawn["wake_price"]).any():
            raise ConfigError(
                f"idle_price: expected at most the wake_price, {options['wake_price']}, found "
                f"{options['idle_price']}"
            )
        if (drawn["context"] % 1).any():
            raise ConfigError(f"context: expected a whole number, found {options['context']}")
        self.context[rows] = drawn["context"].astype(np.int64)
        for name in OPTIONS[1:]:
            getattr(self.expected, name)[rows] = drawn[name]
        share = (drawn["questions"] / most)[:, None]
        self.count[rows] = sum((draw() < share[:, 0]).astype(np.int64) for _ in range(most))
        self.way[rows] = np.floor(draw() * table.ways).astype(np.int64)
        self.level[rows], self.current[rows], self.asked[rows] = -1, -1, 0
        self.left[rows] = True
        self.number_right[rows], self.spent[rows] = 0.0, 0.0

    @property
    def waking(self) -> Bools:
        """Where a question waits, (N,)."""
        return self.current >= 0

    def noted(self) -> Bools:
        """Where the question that waits has a note, (N,)."""
        level, current = np.maximum(self.level, 1) - 1, np.maximum(self.current, 0)
        return np.asarray(self.waking & (self.level > 0) & self._noted[level, current])

    def mask(self) -> Bools:
        """Allowed actions, (N, A)."""
        waking = self.waking
        allowed = np.repeat(~waking[:, None], len(ACTIONS), 1)
        allowed[:, ANSWER_SMALL:LOOK_UP] = waking[:, None]
        allowed[:, LOOK_UP] = self.noted()
        return allowed

    def observe(self) -> Singles:
        """What a policy sees, (N, F); nothing of it is computed from a reference."""
        table, e = self.table, self.expected
        kinds = table.kind[self.context][:, None] == np.arange(len(table.kinds))
        columns = [
            np.log10(table.lengths[self.context]),
            e.questions / table.most,
            e.predictability,
            *(
                np.log10(np.maximum(x, 1e-8)) + 4
                for x in (e.wake_price, e.idle_price, e.step_price)
            ),
            self.waking,
            self.waking & (self.current < table.most),
            self.noted(),
        ]
        levels = self.level[:, None] == np.arange(1, len(LEVELS) + 1)
        return np.concatenate([kinds, np.stack(columns, 1), levels], 1).astype(np.float32)

    def take(self, actions: Array, streams: Streams) -> tuple[Floats, Bools]:
        """Carry out allowed actions, (N,); returns rewards and where sessions are over, (N,)."""
        reward = np.where(self.waking, self._answer(actions), self._prepare(actions))
        self.level = np.where(self.waking, self.level, actions)
        over = self.asked >= self.count
        self._ask(np.flatnonzero(~over), streams)
        return reward, over

    def _prepare(self, actions: Array) -> Floats:
        level = np.minimum(actions, len(LEVELS))
        cost = self.table.note_cost[np.maximum(level, 1) - 1, self.context, self.way]
        paid = self.expected.idle_price * cost * (level > 0)
        self.spent += np.where(self.waking, 0.0, paid)
        return np.asarray(-paid)

    def _answer(self, actions: Array) -> Floats:
        """Rewards for answering the current question, (N,); where there is one."""
        table, e = self.table, self.expected
        place = self.context, np.maximum(self.current, 0), self.way
        model = np.where(actions == ANSWER_LARGE, LARGE, SMALL)
        looks = actions == LOOK_UP
        level = np.maximum(self.level, 1) - 1
        right = np.where(looks, table.note_right[level, *place], table.right[model, *place])
        waited = (
            e.wake_price * table.cost[model, *place] + e.step_price * table.steps[model, *place]
        )
        paid = np.where(looks, 0.0, waited)
        self.number_right += self.waking & right
        self.spent += np.where(self.waking, paid, 0.0)
        return np.asarray(right - paid)

    def _ask(self, rows: Array, streams: Streams) -> None:
        """The next question in `rows`, (n,): one of a half, any that was not asked, alike."""
        most = self.table.most
        likely = streams.uniform(rows) < self.expected.predictability[rows]
        half = (np.arange(2 * most) < most) == likely[:, None]  # (n, Q)
        open_ = self.left[rows] & half
        nth = np.floor(streams.uniform(rows) * open_.sum(1))
        self.current[rows] = (open_.cumsum(1) > nth[:, None]).argmax(1)
        self.left[rows, self.current[rows]] = False
        self.asked[rows] += 1

    def truth(self) -> Floats:
        """What a critic may know and a policy may not: questions that are still to come, (N, 1)."""
        return np.asarray((self.count - self.asked)[:, None] / self.table.most)
