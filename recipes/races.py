"""Recorded races: which samples go on is decided again, at every mark, by whoever learns or plays.

The set is a trace set whose attempts have the columns `groups` and `places`; see
`recipes.drop_record`. What a sample would have written does not depend on the others, so a replay
is exact.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from controller.errors import ConfigError, TraceFormatError
from controller.policy.readouts import Network
from controller.process.lockstep import Bools, Floats, Ints
from envs.draws import Streams, stream_keys
from envs.reward import LogUniform, price_range
from envs.traces.format import TraceSet
from envs.traces.table import build_table
from recipes.race import (
    FEATURES,
    Marks,
    keep_mask,
    keeps,
    kv_token_steps,
    shared_characters,
    signals,
    strongest,
)


@dataclass(frozen=True, kw_only=True)
class RaceTable:
    """S samples of each of Q questions, with M marks.

    Attributes:
        group: tokens from mark to mark.
        prompt_tokens: (Q,).
        length: tokens of each sample, (Q, S).
        answer: numbered within the question, -1 for none, (Q, S).
        right: (Q, S); the policy does not see it.
        signals: as `recipes.race.signals` returns them, (3, Q, S, M).
        places: characters that are written at each mark, (Q, S, M).
        shared: characters that two samples begin with alike, (Q, S, S).
        kv_cost: of a token whose keys and values are held for a step, in tokens; memory is free
            by default.
    """

    group: int
    prompt_tokens: Ints
    length: Ints
    answer: Ints
    right: Bools
    signals: Floats
    places: Ints
    shared: Ints
    kv_cost: float = 0.0

    @property
    def prices(self) -> LogUniform:
        """Three decades around what one sample costs."""
        prompt, length = self.prompt_tokens[:, None], self.length
        held = kv_token_steps(prompt, np.zeros_like(length), length)
        return price_range(float(self.cost(prompt + length, held).mean()))

    def cost(self, tokens: Ints, kv: Ints) -> Floats:
        """Of tokens, and of token-steps of their keys and values."""
        return np.asarray(tokens + self.kv_cost * kv)


def read_races(traces: TraceSet, splits: Iterable[str], kv_cost: float = 0.0) -> RaceTable:
    """The races of some splits; `kv_cost` as in `RaceTable`.

    Raises:
        ConfigError: a cost below 0.
        TraceFormatError: running marks were not recorded, of as many attempts at each question.
    """
    if not 0 <= kv_cost < np.inf:
        raise ConfigError(f"kv_cost: expected a number from 0 up, found {kv_cost}")
    group = traces.manifest.get("group")
    if not group or not {"groups", "places"} <= {*traces.stored.schema.names}:
        raise TraceFormatError(
            f"{traces.path}: expected attempts with running marks, found none; record some with "
            "`python -m recipes.drop_record`"
        )
    table = build_table(traces, splits)
    samples = int(table.stream_length[:, 0].min())
    if samples < table.stream_length[:, 0].max():
        raise TraceFormatError(f"{traces.path}: expected as many attempts at each question")
    attempts = table.attempts[table.stream[:, 0]]  # (Q, S)
    told = traces.stored.to_table(["groups", "places", "text"]).take(attempts["row"].ravel())
    marks = max(map(len, told["groups"].to_pylist()))
    groups, written = (_filled(told[name].to_pylist(), marks) for name in ("groups", "places"))
    shape = attempts.shape
    texts = np.array([text or "" for text in told["text"].to_pylist()], object).reshape(shape)
    length = attempts["completion_tokens"].astype(np.int64)
    places = np.concatenate([np.zeros((len(written), 1)), written], 1).astype(np.int64)
    return RaceTable(
        group=int(group),
        prompt_tokens=table.prompt_tokens[:, 0],
        length=length,
        answer=attempts["answer"].astype(np.int64),
        right=table.right(table.stream[:, 0]),
        signals=signals(groups.reshape(*shape, marks), length, int(group)),
        places=places.reshape(*shape, marks + 1),
        shared=np.stack([shared_characters(row.tolist()) for row in texts]),
        kv_cost=kv_cost,
    )


def _filled(rows: list[list[float]], width: int) -> Floats:
    """Rows of one length, the last entry repeated, (n, W)."""
    return np.array([[*row, *row[-1:] * (width - len(row))] for row in rows], np.float64)


class Races:
    """E races over a table at their marks.

    Attributes:
        question: of each race, (E,).
        mark: number of the mark that it is at, (E,).
        kept: samples that were not dropped, in the race's own order, (E, S).
        order: the recorded sample in each place, (E, S).
        tokens, kv: tokens written and prompt read, and token-steps of keys and values, (E,).
    """

    def __init__(self, table: RaceTable, num_races: int) -> None:
        self.table, samples = table, table.length.shape[1]
        self.question, self.mark, self.tokens, self.kv = np.zeros((4, num_races), np.int64)
        self.kept = np.ones((num_races, samples), bool)
        self.order = np.tile(np.arange(samples), (num_races, 1))
        self._shared = np.zeros((num_races, samples, samples), np.int64)

    def begin(self, rows: Ints, question: Ints, first: Ints) -> None:
        """New races in `rows`, (n,), whose samples go in a circle from the `first` one on."""
        self.question[rows], self.mark[rows], self.kept[rows] = question, 0, True
        self.tokens[rows], self.kv[rows] = 0, 0
        samples = self.order.shape[1]
        self.order[rows] = order = (first[:, None] + np.arange(samples)) % samples
        pair = question[:, None, None], order[:, :, None], order[:, None]
        self._shared[rows] = self.table.shared[pair]

    def take(self, rows: Bools) -> Races:
        """Some of them, on their own from now on."""
        some = copy(self)
        for name in ("question", "mark", "kept", "order", "tokens", "kv", "_shared"):
            setattr(some, name, getattr(self, name)[rows])
        return some

    def marks(self) -> Marks:
        """What is seen of them now."""
        table, mark = self.table, self.mark
        at = self.question[:, None], self.order
        length, written = table.length[at], table.group * mark
        running = self.kept & (length > written[:, None])
        ended = self.kept & ~running
        now = np.minimum(mark, table.places.shape[2] - 1)[:, None]
        mean, last, lowest = table.signals[:, at[0], at[1], now]
        return Marks(
            prompt_tokens=table.prompt_tokens[self.question],
            written=written,
            running=running,
            ended=ended,
            answer=np.where(ended, table.answer[at], -1),
            mean=mean,
            last=last,
            lowest=lowest,
            places=table.places[*at, now],
            shared=self._shared,
        )

    @property
    def cost(self) -> Floats:
        """Tokens, and what holding their keys and values costs, (E,)."""
        return self.table.cost(self.tokens, self.kv)

    def advance(self, marks: Marks, go_on: Bools) -> Floats:
        """Write what goes on, (E, S) of the running, up to the next mark; its cost, (E,)."""
        self.kept &= marks.ended | (go_on & marks.running)
        begin = marks.written[:, None]
        end = np.minimum(
            self.table.length[self.question[:, None], self.order], begin + self.table.group
        )
        goes = self.kept & marks.running
        prompt = self.table.prompt_tokens[self.question]
        held = np.where(goes, kv_token_steps(prompt[:, None], begin, end), 0).sum(1)
        spent = np.where(goes, end - begin, 0).sum(1) + prompt * (goes.any(1) & (self.mark == 0))
        self.kv, self.tokens, self.mark = self.kv + held, self.tokens + spent, self.mark + 1
        return self.table.cost(spent, held)

    def right(self, marks: Marks) -> Bools:
        """Whether the leading answers are right, (E,)."""
        at = self.question[:, None], self.order
        given = self.table.answer[at] == marks.poll[0][:, None]
        return np.asarray((given & self.table.right[at] & (marks.poll[0] >= 0)[:, None]).any(1))

    def truth(self) -> Floats:
        """What a critic may know and a policy may not: share of right samples, length, (E, 2)."""
        right, length = self.table.right[self.question], self.table.length[self.question]
        return np.stack([right.mean(1), length.mean(1) / 100], 1)


class RaceVectorEnv:
    """N races at a time, as `training.ppo.PPO` plays them.

    Actions keep so many of the running samples, those of most value, `keeps(S)`; the race goes on
    to the next mark, and is over when none runs. Rewards are -price x cost of each step, and 1
    at the end if the leading answer is right. Question, order and price are drawn.

    Args:
        value: log-odds that a sample is right, of `Marks.sample_features`.
    """

    autoreset_mode = AutoresetMode.SAME_STEP
    max_episode_steps: int | None = None
    config = None
    num_features = len(FEATURES)

    def __init__(self, table: RaceTable, value: Network, num_envs: int) -> None:
        if num_envs < 1:
            raise ConfigError(f"num_envs: expected at least 1, found {num_envs}")
        self.replay, self.num_envs, self.value = Races(table, num_envs), num_envs, value
        self.counts, self.price = keeps(table.length.shape[1]), np.ones(num_envs)
        self.actions = tuple(f"keep {count}" for count in self.counts)
        self._streams = Streams(stream_keys(0, num_envs))

    def reset(self, *, seed: int | None = None) -> tuple[Any, dict[str, Any]]:
        """Start races afresh; environment i is seeded with seed + i."""
        self._streams = Streams(stream_keys(seed, self.num_envs))
        self._begin(np.arange(self.num_envs))
        return self._observe()

    def step(self, actions: Ints) -> tuple[Any, Floats, Bools, Bools, dict[str, Any]]:
        """One action per environment."""
        races, values = self.replay, self._values
        go_on = strongest(self._marks, values, np.array(self.counts)[actions])
        reward = -self.price * races.advance(self._marks, go_on)
        marks = races.marks()
        over, right = marks.over, races.right(marks)
        reward = reward + (over & right)
        info: dict[str, Any] = {}
        if over.any():
            final = {"right": right * 1.0, "price": self.price.copy(), "cost": races.cost}
            final |= {"budget": np.full(self.num_envs, np.inf), "kv": races.kv * 1.0}
            info = {"final_info": final, "_final_info": over}
            self._begin(np.flatnonzero(over))
        seen, mask = self._observe()
        return seen, reward, over, np.zeros(self.num_envs, bool), info | mask

    def _begin(self, rows: Ints) -> None:
        table, uniform = self.replay.table, self._streams.uniform
        question = np.floor(uniform(rows) * len(table.length)).astype(np.int64)
        first = np.floor(uniform(rows) * table.length.shape[1]).astype(np.int64)
        self.price[rows] = table.prices.at(uniform(rows))
        self.replay.begin(rows, question, first)

    def _observe(self) -> tuple[Any, dict[str, Any]]:
        self._marks = marks = self.replay.marks()
        self._values = sample_values(self.value, marks)
        mask = keep_mask(marks, self.counts)
        return marks.observe(self.price, self._values), {"action_mask": mask.astype(np.int8)}


def sample_values(value: Network, marks: Marks) -> Floats:
    """Log-odds that samples are right, (E, S)."""
    features = marks.sample_features()
    flat = features.reshape(-1, features.shape[2]).astype(np.float32)
    return np.asarray(value(flat), np.float64).reshape(features.shape[:2])
