"""Who records: models in this process, models behind servers, or both at the same time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from controller.backends.base import Backend, Request, run_now
from controller.process.actions import ActionKind
from controller.process.types import Attempt, ModelSpec, Question
from envs.questions.grader import Grader
from envs.traces.format import ATTEMPT_SCHEMA
from training.record.parts import Rows
from training.record.plans import question_row
from training.record.progress import Watch
from training.record.queues import Pace, ServerQueue
from training.record.recording import Missing, RecordConfig, shard_size

Result = TypeVar("Result")


class LocalRecorder:
    """Records with a backend that never suspends, many questions side by side.

    Args:
        backend: makes the attempts.
        grader: grades them.
        config: how much to record.
        rungs: place of each of the backend's models among all that are recorded.
    """

    def __init__(
        self,
        backend: Backend,
        grader: Grader,
        config: RecordConfig,
        rungs: Sequence[int] | None = None,
    ) -> None:
        self.backend, self.grader, self.config = backend, grader, config
        self.rungs = tuple(rungs or range(len(backend.models)))

    @property
    def models(self) -> tuple[ModelSpec, ...]:
        """The backend's."""
        return self.backend.models

    def record(self, todo: Sequence[Missing], add: Watch) -> None:
        """Record one shard after the other."""
        for shard in self.shards(todo):
            add(self.record_shard(shard))

    def shards(self, todo: Sequence[Missing]) -> Iterator[Sequence[Missing]]:
        """What is missing by these models, in pieces that are recorded together."""
        names = {model.name for model in self.models}
        own = [missing for missing in todo if names & set(missing.indices)]
        size = shard_size(self)
        return (own[start : start + size] for start in range(0, len(own), size))

    def record_shard(self, shard: Sequence[Missing]) -> dict[str, Rows]:
        """Record what some questions lack."""
        return run_now(self._recorded(shard))

    async def _recorded(self, shard: Sequence[Missing]) -> dict[str, Rows]:
        questions = {missing.question.question_id: missing.question for missing in shard}
        described = await self._describe(shard)
        requests = [request for missing in shard for request in self._requests(missing)]
        attempts = await self.backend.attempts(requests)
        attempts += await self._revised(questions, requests, attempts)
        attempts = await self._verified(questions, attempts)
        tier = {m.name: self.config.tier(r) for m, r in zip(self.models, self.rungs, strict=True)}
        rows = [
            attempt_row(a, tier[a.model], self.grader, questions[a.question_id]) for a in attempts
        ]
        return {"questions": described, "attempts": rows}

    async def _describe(self, shard: Sequence[Missing]) -> Rows:
        """Rows of questions, with what the small model makes of them if it is one of these."""
        if self.rungs[0]:
            return []
        states = await self.backend.prompt_states([m.question for m in shard], hidden=True)
        return [
            question_row(missing.question, missing.split, state.hidden)
            for missing, state in zip(shard, states, strict=True)
            if not missing.described
        ]

    def _requests(self, missing: Missing) -> Iterable[Request]:
        for rung, model in enumerate(self.models):
            action = self.config.action(self.rungs[rung])
            for index in missing.indices.get(model.name, ()):
                yield Request(question=missing.question, action=action, rung=rung, index=index)

    async def _revised(
        self,
        questions: Mapping[str, Question],
        requests: Sequence[Request],
        attempts: Sequence[Attempt],
    ) -> list[Attempt]:
        parents = [
            attempt
            for request, attempt in zip(requests, attempts, strict=True)
            if self.config.is_revised(self.rungs[request.rung], request.index)
        ]
        found: list[Attempt] = []
        for _ in range(self.config.revision_depth):
            parents = await self.backend.attempts(
                [
                    Request(question=questions[p.question_id], action=ActionKind.REVISE, parent=p)
                    for p in parents
                    if p.error is None
                ]
            )
            found += parents
        return found

    async def _verified(
        self, questions: Mapping[str, Question], attempts: list[Attempt]
    ) -> list[Attempt]:
        places = [i for i, attempt in enumerate(attempts) if self.backend.can_verify(attempt)]
        pairs = [(questions[attempts[i].question_id], attempts[i]) for i in places]
        scores = (await self.backend.verify(pairs)).scores if pairs else ()
        for i, score in zip(places, scores, strict=True):
            attempts[i] = replace(attempts[i], verifier_score=score)
        return attempts


class MixedRecorder:
    """Records with models in this process and behind servers, all of them at the same time."""

    def __init__(
        self,
        local: LocalRecorder | None,
        servers: Sequence[ServerQueue],
        grader: Grader,
        config: RecordConfig,
    ) -> None:
        self.local, self.servers, self.grader, self.config = local, tuple(servers), grader, config

    @property
    def models(self) -> tuple[ModelSpec, ...]:
        """All models, the small ones first."""
        found = {model.rung: model.spec for server in self.servers for model in server.models}
        if self.local is not None:
            found |= dict(zip(self.local.rungs, self.local.models, strict=True))
        return tuple(found[rung] for rung in sorted(found))

    def record(self, todo: Sequence[Missing], add: Watch) -> None:
        """Record what is missing, none of the models far ahead of the others."""
        if not self.servers:
            assert self.local is not None
            self.local.record(todo, add)
            return
        asyncio.run(self._record(todo, add))

    async def _record(self, todo: Sequence[Missing], add: Watch) -> None:
        ahead = max(2 * max(s.concurrency for s in self.servers), shard_size(self))
        pace = Pace(todo, ahead)
        questions = {missing.question.question_id: missing.question for missing in todo}

        def note(attempts: Sequence[Attempt], rung: int) -> None:
            tier = self.config.tier(rung)
            rows = [attempt_row(a, tier, self.grader, questions[a.question_id]) for a in attempts]
            add({"attempts": rows})
            pace.done(attempts[0].question_id)

        try:
            async with asyncio.TaskGroup() as group:
                for server in self.servers:
                    group.create_task(server.record(todo, self.config, pace, note))
                if self.local is not None:
                    group.create_task(self._record_local(self.local, todo, pace, add))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _record_local(
        self, local: LocalRecorder, todo: Sequence[Missing], pace: Pace, add: Watch
    ) -> None:
        for shard in local.shards(todo):
            await pace.reaches(shard[0].question.question_id)
            add(await _in_thread(partial(local.record_shard, shard)))
            for missing in shard:
                made = (missing.indices.get(model.name, ()) for model in local.models)
                pace.done(missing.question.question_id, sum(map(len, made)))


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


def attempt_row(attempt: Attempt, tier: str, grader: Grader, question: Question) -> dict[str, Any]:
    """A row of attempts.parquet."""
    return {
        **{name: getattr(attempt, name, None) for name in ATTEMPT_SCHEMA.names},
        "cached_tokens": attempt.usage.cached_tokens,
        "seconds": attempt.usage.wall_s,
        "tier": tier,
        "action": attempt.action.value,
        "correct": grader.is_right(question, attempt.answer),
    }
