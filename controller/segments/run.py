"""Attempts under way, segment by segment, with a backend that writes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from threading import Event

import numpy as np
from numpy.typing import NDArray

from controller.backends.base import Request
from controller.backends.identity import blank_attempt
from controller.core import Underway
from controller.errors import ConfigError
from controller.policy.difficulty import Difficulty
from controller.policy.network import Policy
from controller.process.actions import SEGMENT_ACTIONS, Action, ActionKind
from controller.process.cost import Usage
from controller.process.episodes import NO_ANSWER
from controller.process.lockstep import Bools, Ints
from controller.process.terms import Terms
from controller.process.types import Attempt, Question
from controller.segments.episodes import (
    ESCALATE,
    REVISE,
    SEGMENT,
    SIGNALS,
    STOP,
    TO_END,
    SegmentConfig,
    SegmentEpisodes,
)
from controller.segments.types import Prefix, Segment, SegmentBackend, SegmentRequest

_ROW = np.zeros(1, np.int64)


class SegmentRun:
    """N attempts in lockstep, each at a question, whose reference is never looked at, by number.

    Of each attempt there is the prefix where it stands, and what it `spent`, one entry per rung.

    An attempt is one serial stream, so the `round_price` of its terms is 0 and its price known.
    """

    def __init__(
        self,
        attempts: Sequence[tuple[Question, int]],
        backend: SegmentBackend,
        config: SegmentConfig,
        terms: Terms,
        *,
        difficulty: Difficulty | None = None,
    ) -> None:
        if terms.round_price:
            raise ConfigError(
                f"round_price: expected 0 inside an attempt, found {terms.round_price}"
            )
        self.backend, self.config, self.price = backend, config, terms.known_price
        self.prefixes = backend.open(attempts)
        n, rungs = len(attempts), config.num_rungs
        self.state, self._rows = SegmentEpisodes(config, n), np.arange(n)
        self.spent: list[tuple[Usage, ...]] = [prefix.usage for prefix in self.prefixes]
        self._forced: list[Segment | None] = [None] * n
        self._answers: list[list[str]] = [[] for _ in attempts]
        self._drafts: list[list[str]] = [[] for _ in attempts]
        log_odds, lengths = np.full((n, rungs), np.nan), np.zeros((n, rungs), np.int64)
        for row, prefix in enumerate(self.prefixes):
            known = difficulty and difficulty.of_question(prefix.question.text, prefix.hidden)
            if known is not None:
                log_odds[row] = known
            # Models that cannot take over here have prompts as long as the top one's.
            last = len(prefix.prompt_tokens) - 1
            lengths[row] = [prefix.prompt_tokens[min(rung, last)] for rung in range(rungs)]
        self.state.reset(
            self._rows,
            price=np.full(n, self.price),
            budget=np.full(n, np.inf if terms.budget is None else terms.budget),
            prompt_tokens=lengths,
            difficulty=log_odds,
            value=np.array([np.nan if p.value is None else p.value for p in self.prefixes]),
        )

    def _count(self, row: int, usage: tuple[Usage, ...]) -> None:
        self.spent[row] = tuple(a + b for a, b in zip(self.spent[row], usage, strict=True))

    def attempt(self, row: int) -> Attempt:
        """An attempt as it stands, a forced answer included."""
        prefix, forced, state = self.prefixes[row], self._forced[row], self.state
        known, answer = bool(prefix.segments), int(state.answer[row])
        request = Request(question=prefix.question, action=ActionKind.SAMPLE, index=prefix.attempt)
        return replace(
            blank_attempt(self.backend.models[0].name, request),
            answer=None if answer == NO_ANSWER else self._answers[row][answer],
            text=prefix.text + ("" if forced is None or prefix.done else forced.text),
            prompt_tokens=prefix.prompt_tokens[0],
            completion_tokens=int(state.tokens[row]) - prefix.prompt_tokens[0],
            mean_logprob=float(state.logprob[row]) if known else None,
            min_logprob=float(state.least_logprob[row]) if known else None,
            usage=sum(self.spent[row], Usage()),
        )

    def advance(self, rows: Ints, actions: Ints) -> list[Segment]:
        """Carry out an action other than STOP in each of `rows`, unless its mask forbids it."""
        self._check(rows, actions)
        draws, requests = self.state.next_draw(rows, actions), []
        for row, action, draw in zip(rows.tolist(), actions.tolist(), draws.tolist(), strict=True):
            prefix = self.prefixes[row]
            if action == REVISE:
                assert prefix.before is not None
                prefix = prefix.before
            else:
                self._drafts[row] = []
            rung = self.config.num_rungs - 1 if action >= ESCALATE else 0
            to_end = action == TO_END
            requests.append(SegmentRequest(prefix=prefix, rung=rung, index=draw, to_end=to_end))
        segments = []
        for row, prefix in zip(rows.tolist(), self.backend.write(requests), strict=True):
            assert prefix.segment is not None
            self.prefixes[row] = prefix
            self._count(row, prefix.segment.usage)
            self._drafts[row].append(prefix.segment.text)
            segments.append(prefix.segment)
        self.state.record(rows, actions, self._made(rows))
        return segments

    def _check(self, rows: Ints, actions: Ints) -> None:
        mask = self.state.mask(rows)
        illegal = ~mask[np.arange(len(rows)), actions] | (actions == STOP)
        for i in np.flatnonzero(illegal):
            question_id = self.prefixes[rows[i]].question.question_id
            raise SEGMENT_ACTIONS.illegal(question_id, mask[i], SEGMENT_ACTIONS[actions[i]])

    def _known(self, row: int, answer: str | None) -> int:
        """Id of an answer among the attempt's."""
        if answer is None:
            return NO_ANSWER
        answers = self._answers[row]
        if answer not in answers:
            answers.append(answer)
        return answers.index(answer)

    def _made(self, rows: Ints) -> NDArray[np.void]:
        """What was written last in `rows`, and what forcing an answer brings, (n,) `SEGMENT`."""
        made = np.zeros(len(rows), SEGMENT)
        for entry, row in zip(made, rows.tolist(), strict=True):
            prefix, drafts = self.prefixes[row], self._drafts[row]
            segment = prefix.segment
            assert segment is not None
            for name in ("num_tokens", "small_tokens", "done"):
                entry[name] = getattr(segment, name)
            for name in SIGNALS:
                known = getattr(prefix if name == "value" else segment, name)
                entry[name] = np.nan if known is None else known
            entry["answer"] = self._known(row, segment.answer)
            entry["repeats"] = drafts[:-1].count(drafts[-1])
        if self.config.probes:
            going = np.flatnonzero(~made["done"])
            made["answer"][going], made["forced_tokens"][going] = self._force(rows[going])
        return made

    def _force(self, rows: Ints) -> tuple[Ints, Ints]:
        """Force answers in `rows`; their ids and the tokens that it took, (n,) each."""
        found = self.backend.force([self.prefixes[row] for row in rows])
        for row, forced in zip(rows.tolist(), found, strict=True):
            self._count(row, forced.usage)
            self._forced[row] = forced
        ids = [self._known(row, forced.answer) for row, forced in zip(rows, found, strict=True)]
        return np.array(ids, np.int64), np.array([f.num_tokens for f in found], np.int64)

    def stop(self, rows: Ints) -> None:
        """End attempts: force an answer where there is none and something has been written."""
        rows = self.state.unanswered(rows)
        if len(rows):
            self.state.force(rows, *self._force(rows))

    def play(self, policy: Policy, unwanted: Sequence[Event | None]) -> Bools:
        """Let a policy, which may not give up, decide until every attempt has ended.

        An attempt is left as it is once its flag in `unwanted` is set.

        Returns:
            (n,) whether each attempt was wanted to its end.
        """
        going, wanted = np.ones((2, len(self._rows)), bool)
        while True:
            for row, flag in enumerate(unwanted):
                wanted[row] &= not going[row] or flag is None or not flag.is_set()
            going &= wanted
            if not going.any():
                break
            mask = self.state.mask()
            mask[:, STOP] &= ~self.state.fresh | (mask.sum(1) == 1)
            actions = policy.act(self.state, mask)
            going &= (actions != STOP) & mask[:, 1:].any(1)
            if going.any():
                self.advance(self._rows[going], actions[going])
        self.stop(self._rows[wanted])
        return wanted


class SegmentEpisode(SegmentRun, Underway):
    """A run of one attempt, as an episode."""

    @property
    def prefix(self) -> Prefix:
        """Where the attempt stands."""
        return self.prefixes[0]

    @property
    def answer(self) -> str | None:
        """Answer of the attempt once it is done or one has been forced; None before."""
        return self.attempt(0).answer

    @property
    def usage(self) -> dict[str, Usage]:
        """Tokens processed so far, by model name."""
        return {m.name: used for m, used in zip(self.backend.models, self.spent[0], strict=True)}

    async def take(self, action: Action) -> tuple[Segment, ...]:
        """See `Underway.take`; never suspends: a backend of segments is waited for in place."""
        return tuple(self.advance(_ROW, np.array([SEGMENT_ACTIONS.index(action)])))

    def close(self) -> None:
        """End the attempt; see `stop`."""
        self.stop(_ROW)

    def best_attempt(self) -> Attempt | None:
        """The attempt as it stands; None before the first segment."""
        return None if self.state.fresh[0] else self.attempt(0)
