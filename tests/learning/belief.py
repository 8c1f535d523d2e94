"""Every state that an episode over a `SyntheticFamily` can reach, with its probability.

A state is the votes of the two models for each answer, and which answer leads. Names of
answers tell nothing, and the order of attempts tells nothing beyond who leads a tie, so
that is all there is to know besides the hint.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, permutations
from math import factorial

import numpy as np
from numpy.typing import NDArray

from controller.errors import ConfigError
from controller.process.episodes import AttemptColumns, Episodes
from tests.learning.synthetic import SyntheticFamily

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

Votes = tuple[tuple[int, int], ...]
"""(small, large) attempts per answer: the leader's first, the others in falling order."""

History = tuple[tuple[int, int], ...]
"""Attempts in order, as (rung, answer)."""

_MOST_ANSWERS = 7


@dataclass(frozen=True, kw_only=True)
class BeliefTree:
    """B states in order of attempts made; H hints, K answers.

    Attributes:
        family: the problem.
        votes: (B, K, 2) attempts per answer and rung, as in `Votes`.
        children: (B, 2, K) state after an attempt on each rung that gives each answer; -1
            where there is no such attempt to be had.
        reach: (B, H) probability of the hint and of one sequence of answers that leads
            here. It is the sum over the children of either rung.
        right: (B, H) probability of the same and of the leader being right.
        cost: (B, 2) cost of the next attempt on each rung.
        layers: the states with 0, 1, 2, ... attempts.
        histories: an example of how each state is reached, by (state, whether the last
            attempt agreed with the leader before it).
    """

    family: SyntheticFamily
    votes: Ints
    children: Ints
    reach: Floats
    right: Floats
    cost: Floats
    layers: tuple[slice, ...]
    histories: dict[tuple[int, bool], History]

    @classmethod
    def build(cls, family: SyntheticFamily) -> BeliefTree:
        """Enumerate the states.

        Raises:
            ConfigError: the family has too many answers to go through their permutations.
        """
        if family.num_answers > _MOST_ANSWERS:
            raise ConfigError(
                f"wrong: expected at most {_MOST_ANSWERS - 1} wrong answers, found "
                f"{family.num_answers - 1}"
            )
        search = _Search(family)
        search.run()
        votes = np.array(search.votes)  # (B, K, 2)
        attempts = votes.sum((1, 2))  # (B,)
        edges = np.searchsorted(attempts, np.arange(attempts[-1] + 2)).tolist()
        reach, right = _probabilities(family, votes)
        return cls(
            family=family,
            votes=votes,
            children=np.array(search.children),
            reach=reach,
            right=right,
            cost=_next_cost(family, votes),
            layers=tuple(slice(a, b) for a, b in pairwise(edges)),
            histories=search.histories,
        )

    def __len__(self) -> int:
        return len(self.votes)

    @cached_property
    def _index(self) -> dict[bytes, int]:
        return {row.tobytes(): i for i, row in enumerate(self.votes)}

    def locate(self, episodes: Episodes) -> Ints:
        """State that each episode is in, (N,)."""
        small = episodes.small_votes.astype(np.int64)  # (N, K)
        large = (episodes.votes.astype(np.int64) - small) // self.family.large_votes
        rank = small * (self.family.max_escalations + 1) + large
        rank[np.arange(len(rank)), np.maximum(episodes.leader, 0)] = np.iinfo(np.int64).max
        order = np.argsort(-rank, axis=1, kind="stable")
        votes = np.take_along_axis(np.stack([small, large], -1), order[..., None], axis=1)
        found, which = np.unique(votes, axis=0, return_inverse=True)
        return np.array([self._index[row.tobytes()] for row in found])[which.reshape(-1)]

    def episodes(self) -> Episodes:
        """Live episodes brought to each of `histories`, in order, without a price yet."""
        config, histories = self.family.config(), list(self.histories.values())
        n = len(histories)
        episodes = Episodes(config, n, self.family.num_answers)
        episodes.reset(
            np.arange(n),
            price=np.ones(n),
            budget=np.full(n, np.inf),
            prompt_tokens=np.full((n, 2), self.family.prompt_tokens),
            limits=np.full((n, 2), max(config.max_samples, config.max_escalations)),
            difficulty=np.full((n, 2), np.nan),
        )
        for t in range(len(self.layers) - 1):
            rows = np.array([i for i, history in enumerate(histories) if len(history) > t])
            rung, answer = np.array([histories[i][t] for i in rows]).T
            episodes.record(rows, np.zeros(len(rows), bool), self._attempts(rung, answer))
            episodes.finish_round(rows)
        return episodes

    def _attempts(self, rung: Ints, answer: Ints) -> AttemptColumns:
        n = len(rung)
        unknown, none = np.full(n, np.nan), np.zeros(n, np.int64)
        return AttemptColumns(
            rung=rung,
            answer=answer,
            prompt_tokens=np.full(n, self.family.prompt_tokens),
            completion_tokens=np.full(n, self.family.completion_tokens),
            reasoning_tokens=none,
            mean_logprob=unknown,
            min_logprob=unknown,
            cut=np.zeros(n, bool),
            scoreable=np.zeros(n, bool),
            first_child=none[:, None],
            num_children=none[:, None],
        )


class _Search:
    """Breadth-first search over `Votes`; see `BeliefTree` for what it finds."""

    def __init__(self, family: SyntheticFamily) -> None:
        self.family = family
        self.votes: list[Votes] = []
        self.children: list[list[list[int]]] = []
        self.histories: dict[tuple[int, bool], History] = {}
        self._index: dict[Votes, int] = {}
        # How each state was found, and the answers of that history in the order of its votes.
        self._found: list[History] = []
        self._names: list[tuple[int, ...]] = []

    def run(self) -> None:
        """Find every state that the limits allow."""
        answers = tuple(range(self.family.num_answers))
        limits = (self.family.max_samples, self.family.max_escalations)
        self._add(((0, 0),) * len(answers), answers, ())
        self.histories[0, False] = ()
        state = 0
        while state < len(self.votes):
            for rung, limit in enumerate(limits):
                if sum(votes[rung] for votes in self.votes[state]) < limit:
                    self.children[state][rung] = [self._grow(state, rung, k) for k in answers]
            state += 1

    def _add(self, votes: Votes, names: tuple[int, ...], history: History) -> int:
        if votes not in self._index:
            self._index[votes] = len(self.votes)
            self.votes.append(votes)
            self.children.append([[-1] * len(votes), [-1] * len(votes)])
            self._names.append(names)
            self._found.append(history)
        return self._index[votes]

    def _grow(self, state: int, rung: int, position: int) -> int:
        """State after an attempt that gives the answer in a position of a state's votes."""
        before, names = self.votes[state], self._names[state]
        small, large = before[position]
        grown = (small + 1, large) if rung == 0 else (small, large + 1)
        votes = [*before[:position], grown, *before[position + 1 :]]
        leader = position if self._overtakes(grown, votes[0], rung) else 0
        others = [k for k in range(len(votes)) if k != leader]
        order = [leader, *sorted(others, key=lambda k: votes[k], reverse=True)]
        history = (*self._found[state], (rung, names[position]))
        child = self._add(tuple(votes[k] for k in order), tuple(names[k] for k in order), history)
        self.histories.setdefault((child, position == 0 and state > 0), history)
        return child

    def _overtakes(self, challenger: tuple[int, int], leader: tuple[int, int], rung: int) -> bool:
        """Whether an answer that has just been given leads now; a large one wins ties."""
        lead = self._weight(challenger) - self._weight(leader)
        return lead > 0 or (lead == 0 and rung > 0)

    def _weight(self, votes: tuple[int, int]) -> int:
        return votes[0] + self.family.large_votes * votes[1]


def _probabilities(family: SyntheticFamily, votes: Ints) -> tuple[Floats, Floats]:
    """`reach` and `right`, both (B, H).

    Votes are for named answers, and every assignment of names to the right and the wrong
    answers is equally likely beforehand.
    """
    answers = range(family.num_answers)
    small, large = votes[..., 0], votes[..., 1]  # (B, K)
    reach = np.zeros((len(family.types), len(votes)))  # (T, B)
    right = np.zeros_like(reach)
    answered = votes[:, 0].any(-1)  # (B,)
    for t, (of_small, of_large) in enumerate(family.answer_probabilities):
        # (B, K, K): probability of the votes in a position if they are for an answer
        each = of_small ** small[..., None] * of_large ** large[..., None]
        for names in permutations(answers):
            together = each[:, answers, names].prod(-1)  # (B,)
            reach[t] += together
            if names[0] == 0:
                right[t] += together * answered
    assignments = factorial(family.num_answers)
    return reach.T @ family.prior / assignments, right.T @ family.prior / assignments


def _next_cost(family: SyntheticFamily, votes: Ints) -> Floats:
    """Cost of the next attempt on each rung, (B, 2); a model reads the prompt once."""
    config = family.config()
    read: NDArray[np.bool_] = votes.sum(1) > 0  # (B, 2)
    read[:, 0] |= config.reads_prompt
    tokens = family.prompt_tokens * ~read + family.completion_tokens
    return np.asarray(tokens * np.array(config.cost.weights))
