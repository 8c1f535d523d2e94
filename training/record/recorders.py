"""Who records: models in this process, models behind servers, or both at the same time.

Attempts at one question by a server's model are asked for one after the other, by as many askers
as the server has room for: so each finds the prompt that the last one left in the server's cache,
which attempts side by side would each read again.
"""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, TypeVar

from controller.backends.base import TOO_LONG, Backend, Request, run_now
from controller.backends.openai.backend import ATTEMPT_DEADLINE
from controller.backends.openai.resilience import (
    FILTERED,
    LIMITED,
    NO_KEY,
    PERMANENT,
    REJECTED,
    UNREADABLE,
)
from controller.errors import BackendError
from controller.loading import KEY_VARIABLE
from controller.process.actions import ActionKind
from controller.process.types import Attempt, ModelSpec, Question
from envs.questions.grader import Grader
from envs.traces.format import ATTEMPT_SCHEMA
from training.record.parts import Rows
from training.record.plans import Missing, question_row
from training.record.progress import Watch
from training.record.settings import RecordConfig

Result = TypeVar("Result")

FACTS = frozenset(
    {
        *(REJECTED, TOO_LONG, FILTERED, UNREADABLE, ATTEMPT_DEADLINE),
        *("null_content", "empty_choices", "too_large"),
    }
)
"""Failures that say something about a question and a model, and are recorded as such."""

HOPELESS = PERMANENT - FACTS
"""Failures that waiting does not help against."""

PATIENCE_S = 600.0
"""How long a recording waits for a server that is down."""

_QUIET_S = 2.0
"""How long it says nothing about that."""

_TRIES = 5
"""At an attempt that fails while the server answers others."""

FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0


class Recorder(Protocol):
    """Records what is missing, here or elsewhere."""

    @property
    def config(self) -> RecordConfig:
        """How much to record."""

    @property
    def models(self) -> tuple[ModelSpec, ...]:
        """All models, the small ones first."""

    def record(self, todo: Sequence[Missing], add: Watch) -> None:
        """Record what is missing, more or less in order."""


class LocalRecorder:
    """Records with a backend that never suspends, many questions side by side.

    `rungs` are the places of its models among all that are recorded.
    """

    def __init__(
        self,
        backend: Backend,
        grader: Grader,
        config: RecordConfig,
        rungs: Sequence[int] | None = None,
    ) -> None:
        self.backend, self.grader, self.config = backend, grader, config
        self.models, self.rungs = backend.models, tuple(rungs or range(len(backend.models)))

    def record(self, todo: Sequence[Missing], add: Watch) -> None:
        """Record one shard after the other."""
        for shard in self.shards(todo):
            add(self.record_shard(shard))

    def shards(self, todo: Sequence[Missing]) -> Iterator[Sequence[Missing]]:
        """What is missing by these models, in pieces that are recorded together."""
        names = {model.name for model in self.models}
        own = [missing for missing in todo if missing.count(names)]
        size = self.config.shard_size(self.models)
        return (own[start : start + size] for start in range(0, len(own), size))

    def record_shard(self, shard: Sequence[Missing]) -> dict[str, Rows]:
        """Record what some questions lack."""
        return run_now(self._recorded(shard))

    async def _recorded(self, shard: Sequence[Missing]) -> dict[str, Rows]:
        questions = {missing.question.question_id: missing.question for missing in shard}
        rungs = {model.name: rung for model, rung in zip(self.models, self.rungs, strict=True)}
        described = await self._describe(shard)
        requests = [request for missing in shard for request in self._requests(missing)]
        attempts = await self.backend.attempts(requests)
        parents = [
            attempt
            for request, attempt in zip(requests, attempts, strict=True)
            if request.parent is None
            and self.config.is_revised(self.rungs[request.rung], request.index)
        ]
        for _ in range(self.config.revision_depth):
            again = (
                Request(question=questions[p.question_id], action=ActionKind.REVISE, parent=p)
                for p in parents
                if p.error is None
            )
            parents = await self.backend.attempts([*again])
            attempts += parents
        await self._verify(questions, attempts)
        made = [(attempt, self.config.tier(rungs[attempt.model])) for attempt in attempts]
        return {"questions": described, **rows_of(made, self.grader, questions)}

    async def _describe(self, shard: Sequence[Missing]) -> Rows:
        """Rows of questions, with what the small model makes of them if it is one of these."""
        if self.rungs[0]:
            return []
        new = [missing for missing in shard if not missing.described]
        states = await self.backend.prompt_states([m.question for m in new], hidden=True)
        return [
            question_row(missing.question, missing.split, state.hidden)
            for missing, state in zip(new, states, strict=True)
        ]

    def _requests(self, missing: Missing) -> Iterable[Request]:
        for rung, model in enumerate(self.models):
            action = self.config.action(self.rungs[rung])
            for wanted in missing.of(model.name):
                request = asked(missing, action, wanted)
                yield replace(request, rung=rung)

    async def _verify(self, questions: Mapping[str, Question], attempts: list[Attempt]) -> None:
        """Score, in place, what an adapter can score."""
        if self.config.verifier is not None:
            return
        places = [i for i, attempt in enumerate(attempts) if self.backend.can_verify(attempt)]
        pairs = [(questions[attempts[i].question_id], attempts[i]) for i in places]
        scores = (await self.backend.verify(pairs)).scores if pairs else ()
        for i, score in zip(places, scores, strict=True):
            attempts[i] = replace(attempts[i], verifier_score=score)


def asked(missing: Missing, action: ActionKind, wanted: int | Attempt) -> Request:
    """The attempt of an index, or the revision or the judgement of an attempt."""
    if isinstance(wanted, Attempt):
        action = ActionKind.VERIFY if missing.verifies else ActionKind.REVISE
        return Request(question=missing.question, action=action, parent=wanted)
    return Request(question=missing.question, action=action, index=wanted)


class Convoy:
    """Keeps models from running `ahead` of the first question that is not whole by so many.

    So a recording that is ended early has wasted little.
    """

    def __init__(self, todo: Sequence[Missing], ahead: int) -> None:
        self._ahead, self._front = ahead, 0
        self._left = [missing.count() for missing in todo]
        self._places = {missing.question.question_id: i for i, missing in enumerate(todo)}
        self._moved = asyncio.Event()

    def done(self, question_id: str, attempts: int = 1) -> None:
        """Attempts at a question have been made."""
        self._left[self._places[question_id]] -= attempts
        while self._front < len(self._left) and self._left[self._front] <= 0:
            self._front += 1
            self._moved.set()

    async def reaches(self, question_id: str) -> None:
        """Wait until it is a question's turn."""
        while self._places[question_id] > self._front + self._ahead:
            self._moved.clear()
            await self._moved.wait()


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A model behind a server, of the rung that it has among all, and a way to ask it."""

    spec: ModelSpec
    connect: Callable[[], Backend]


@dataclass(eq=False)
class _Turn:
    """Attempts at one question by one model."""

    missing: Missing
    model: ServedModel
    left: deque[int | Attempt]


class ServerQueue:
    """Asks the models of one server, a bounded number of requests at a time.

    A service has to give up on a server that is down. A recording waits, and if that is in vain
    had better stop, to be resumed when the server is up again, than write down failures.
    """

    def __init__(self, models: Sequence[ServedModel], concurrency: int) -> None:
        self.models, self.concurrency = tuple(models), concurrency
        self._answered_at = 0.0
        self._complained = False
        self._to_blame: set[str] = set()

    async def record(
        self,
        todo: Sequence[Missing],
        config: RecordConfig,
        convoy: Convoy,
        note: Callable[[Sequence[Attempt], int], None],
    ) -> None:
        """Record what its models lack; `note` is told of attempts, their revisions, and rungs."""
        backends = {model.spec.rung: model.connect() for model in self.models}
        fresh = deque(
            _Turn(missing, model, deque(missing.of(model.spec.name)))
            for missing in todo
            for model in self.models
            if missing.count([model.spec.name])
        )
        begun: list[_Turn] = []

        async def ask() -> None:
            while (turn := _next_turn(fresh, begun)) is not None:
                await convoy.reaches(turn.missing.question.question_id)
                rung = turn.model.spec.rung
                while turn.left:
                    wanted = turn.left.popleft()
                    note(await self._chain(backends[rung], turn, wanted, config), rung)

        try:
            await _all_of(ask() for _ in range(self.concurrency))
        finally:
            for backend in backends.values():
                await backend.close()

    async def _chain(
        self, backend: Backend, turn: _Turn, wanted: int | Attempt, config: RecordConfig
    ) -> list[Attempt]:
        """An attempt and its revisions."""
        rung, question = turn.model.spec.rung, turn.missing.question
        request = asked(turn.missing, config.action(rung), wanted)
        chain = [await self._attempt(backend, turn.model, request)]
        revised = request.parent is None and config.is_revised(rung, request.index)
        for _ in range(config.revision_depth if revised else 0):
            if chain[-1].error is not None:
                break
            again = Request(question=question, action=ActionKind.REVISE, parent=chain[-1])
            chain.append(await self._attempt(backend, turn.model, again))
        return chain

    async def _attempt(self, backend: Backend, model: ServedModel, request: Request) -> Attempt:
        """An attempt, or the failure that says something about its question; BackendError else."""
        now = asyncio.get_running_loop().time
        failed_at, tries = 0.0, 0
        while True:
            (attempt,) = await backend.attempts([request])
            attempt = replace(attempt, rung=model.spec.rung)
            if attempt.error is None or attempt.error.partition(":")[0] in FACTS:
                self._answered_at, self._complained = now(), False
                return attempt
            tries += 1
            failed_at = failed_at or now()
            if tries >= _TRIES and attempt.error != LIMITED:
                if self._answered_at > failed_at:
                    self._to_blame.add(request.question.question_id)
                if request.question.question_id in self._to_blame:
                    return attempt
            waited_s = now() - max(failed_at, self._answered_at)
            asks_s = attempt.retry_after_s or 0.0
            expected = f"{model.spec.name}: expected its server to answer, found {attempt.error!r}"
            expected += f", which asks for a pause of {asks_s:.0f} s" if asks_s else ""
            if attempt.error in HOPELESS or max(waited_s, asks_s) > PATIENCE_S:
                waited = f" for {waited_s / 60:.0f} minutes" if waited_s > PATIENCE_S else ""
                key = KEY_VARIABLE.format(rung=model.spec.rung)
                hint = f"; its key is {key}" if attempt.error == NO_KEY else ""
                raise BackendError(f"{expected}{waited}{hint}; run the same command again to go on")
            if max(waited_s, asks_s) > _QUIET_S and not self._complained:
                self._complained = True
                minutes = f"{PATIENCE_S / 60:.0f} minutes"
                warnings.warn(f"{expected}, asking again for up to {minutes}", stacklevel=2)
            pause_s = min(FIRST_PAUSE_S * 2 ** (tries - 1), _LONGEST_PAUSE_S)
            await asyncio.sleep(max(pause_s, asks_s))


def _next_turn(fresh: deque[_Turn], begun: list[_Turn]) -> _Turn | None:
    """What to do next: a question that nobody has begun, else help with one."""
    begun[:] = [turn for turn in begun if turn.left]
    if fresh:
        begun.append(fresh.popleft())
        return begun[-1]
    return max(begun, key=lambda turn: len(turn.left), default=None)


class ServedRecorder:
    """Records with models behind servers and, at the same time, with some in this process."""

    def __init__(
        self,
        local: LocalRecorder | None,
        servers: Sequence[ServerQueue],
        grader: Grader,
        config: RecordConfig,
    ) -> None:
        self.local, self.servers, self.grader, self.config = local, servers, grader, config
        found = {model.spec.rung: model.spec for server in servers for model in server.models}
        if local is not None:
            found |= dict(zip(local.rungs, local.models, strict=True))
        self.models = tuple(found[rung] for rung in sorted(found))

    def record(self, todo: Sequence[Missing], add: Watch) -> None:
        """Record what is missing, none of the models far ahead of the others."""
        asyncio.run(self._record(todo, add))

    async def _record(self, todo: Sequence[Missing], add: Watch) -> None:
        busiest = max(server.concurrency for server in self.servers)
        convoy = Convoy(todo, ahead=max(2 * busiest, self.config.shard_size(self.models)))
        questions = {missing.question.question_id: missing.question for missing in todo}

        def note(attempts: Sequence[Attempt], rung: int) -> None:
            tier = self.config.tier(rung)
            add(rows_of([(attempt, tier) for attempt in attempts], self.grader, questions))
            convoy.done(attempts[0].question_id)

        work = [server.record(todo, self.config, convoy, note) for server in self.servers]
        if self.local is not None:
            work.append(_record_beside(self.local, todo, convoy, add))
        await _all_of(work)


async def _record_beside(
    local: LocalRecorder, todo: Sequence[Missing], convoy: Convoy, add: Watch
) -> None:
    for shard in local.shards(todo):
        await convoy.reaches(shard[0].question.question_id)
        add(await _in_thread(partial(local.record_shard, shard)))
        for missing in shard:
            made = missing.count(model.name for model in local.models)
            convoy.done(missing.question.question_id, made)


async def _all_of(work: Iterable[Any]) -> None:
    """Await all of it, or the first error, which cancels the rest."""
    try:
        async with asyncio.TaskGroup() as group:
            for piece in work:
                group.create_task(piece)
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def _in_thread(work: Callable[[], Result]) -> Result:
    """What a piece of work returns; an interrupted program does not wait for its end."""
    done: Future[Result] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as raised:  # whatever it is, those who wait must hear of it
            done.set_exception(raised)

    threading.Thread(target=run, name="allot-recording", daemon=True).start()
    return await asyncio.wrap_future(done)


def rows_of(
    made: Sequence[tuple[Attempt, str]], grader: Grader, questions: Mapping[str, Question]
) -> dict[str, Rows]:
    """Rows of attempts, each with its tier, and of scores, which judgements are."""
    return {
        "attempts": [
            attempt_row(attempt, tier, grader, questions)
            for attempt, tier in made
            if attempt.action is not ActionKind.VERIFY
        ],
        "scores": [
            {
                "question_id": judged.question_id,
                "attempt_id": judged.parent_id,
                "verifier_score": judged.verifier_score,
                "verifier_tokens": judged.prompt_tokens + judged.completion_tokens,
            }
            for judged, _ in made
            if judged.action is ActionKind.VERIFY
        ],
    }


def attempt_row(
    attempt: Attempt, tier: str, grader: Grader, questions: Mapping[str, Question]
) -> dict[str, Any]:
    """A row of attempts.parquet, graded by its question, one of `questions` by id."""
    return {
        **{name: getattr(attempt, name, None) for name in ATTEMPT_SCHEMA.names},
        "cached_tokens": attempt.usage.cached_tokens,
        "reasoning_tokens": attempt.usage.reasoning_tokens,
        "seconds": attempt.usage.wall_s,
        "tier": tier,
        "action": attempt.action.value,
        "correct": grader.is_right(questions[attempt.question_id], attempt.answer),
    }
