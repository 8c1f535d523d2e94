"""Attempts written segment by segment by language models on this machine.

What the ledger of a segment says:

- `decoded_tokens` are the tokens written. Each goes through the small model once, the last one
  of a segment as well, so that it is ready to go on; only the token that ends an attempt or a
  forced answer is never fed back, nor is the last one that the large model writes.
- `prefill_tokens` are tokens that a model reads because another wrote them or because they
  were put into its mouth: the large model's prompt and the prefix that it takes over, what it
  then wrote (on the small model's account), the phrase that forces an answer.
- `cached_tokens` are those that a model takes over from what it has read before.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from controller.answers import UNSTATED, AnswerKind, answer_kind, read_answer
from controller.backends.base import TEMPERATURE, Request, recorded_temperature
from controller.backends.local.jobs import Generation, Job, prompt_of
from controller.backends.local.kv import KVPrefix, Piece, read
from controller.backends.local.model import LocalModel, check_rungs
from controller.backends.local.segment_model import Draft, SegmentModel, entropy
from controller.errors import BackendError, ConfigError
from controller.policy.difficulty import Difficulty
from controller.process.actions import ActionKind
from controller.process.cost import Usage
from controller.process.types import Question
from controller.segments.types import (
    ForcedAnswer,
    Prefix,
    Segment,
    Segmentation,
    SegmentRequest,
)

if TYPE_CHECKING:
    from controller.checkpoint import Checkpoint
    from controller.segments.episodes import SegmentConfig

ANSWER_PHRASE = "Answer:"
"""What is put into the small model's mouth to make it answer at once."""
MAX_FORCED_TOKENS = 32
"""Longest forced answer."""
JOBS_AT_A_TIME = 1024
"""Prefixes whose keys and values are put together at once."""


class SegmentWriter:
    """`SegmentBackend` on local models.

    Args:
        models: one per rung, the small one first.
        seed: of all random streams.
        temperature: of sampling; forced answers always take the likeliest token.
        segmentation: where segments end.
        max_new_tokens: longest attempt.
        max_rows: segments of one model written side by side.
        answers: how answers are read where a question does not say; None for `auto`.
        value: read-out of a prefix's worth from the small model's hidden state; None for none.
    """

    def __init__(
        self,
        models: Sequence[LocalModel],
        *,
        seed: int = 0,
        temperature: float = TEMPERATURE,
        segmentation: Segmentation | None = None,
        max_new_tokens: int = 192,
        max_rows: int = 256,
        answers: AnswerKind | None = None,
        value: Difficulty | None = None,
    ) -> None:
        check_rungs(models)
        self.seed, self.temperature = seed, temperature
        self.max_new_tokens, self.answers = max_new_tokens, answers or answer_kind(UNSTATED)
        self.value = value
        self.segmentation = segmentation or Segmentation()
        self._rungs = [
            SegmentModel(model, self.segmentation, temperature, max_rows) for model in models
        ]
        self.models = tuple(model.spec(temperature, max_new_tokens) for model in models)

    def open(self, attempts: Sequence[tuple[Question, int]]) -> list[Prefix]:
        """Read the prompts of attempts with the small model, each question's once.

        Raises:
            BackendError: a prompt does not fit into the context, or the model fails.
        """
        started, small = time.perf_counter(), self._rungs[0]
        questions = {question.question_id: question for question, _ in attempts}
        prompts = {name: self._prompts(question) for name, question in questions.items()}
        pieces = [Piece(prompt[0]) for prompt in prompts.values()]
        for question, piece in zip(questions.values(), pieces, strict=True):
            small.check_room(question, len(piece.tokens))
        memories = dict(zip(questions, read(small.local.model, pieces), strict=True))
        wall_s = (time.perf_counter() - started) / max(sum(len(p.tokens) for p in pieces), 1)
        unpaid, prefixes = set(questions), []
        for question, attempt in attempts:
            name = question.question_id
            tokens = len(prompts[name][0])
            paid = tokens if name in unpaid else 0
            unpaid.discard(name)
            usage = Usage(prefill_tokens=paid, cached_tokens=tokens - paid, wall_s=paid * wall_s)
            prefixes.append(
                Prefix(
                    question=question,
                    attempt=attempt,
                    prompt_tokens=tuple(len(prompt) for prompt in prompts[name]),
                    **self._seen(memories[name]),
                    usage=self._by_rung({0: usage}),
                    memory={0: memories[name]},
                )
            )
        return prefixes

    def _prompts(self, question: Question) -> list[tuple[int, ...]]:
        request = Request(question=question, action=ActionKind.SAMPLE)
        return [rung.local.encode(request) for rung in self._rungs]

    def _seen(self, memory: KVPrefix | None) -> dict[str, Any]:
        """What the small model's hidden state tells of a prefix; nothing once it is done."""
        if memory is None or memory.hidden is None:
            return {}
        hidden = memory.hidden.cpu().numpy()
        value = None if self.value is None else float(self.value.outlook(hidden[None])[0, 0])
        return {"hidden": hidden, "value": value}

    def _by_rung(self, usage: dict[int, Usage]) -> tuple[Usage, ...]:
        return tuple(usage.get(rung, Usage()) for rung in range(len(self._rungs)))

    def write(self, requests: Sequence[SegmentRequest]) -> list[Prefix]:
        """The prefixes, each longer by the segment asked for.

        Raises:
            ConfigError: a request for a rung that is not on the ladder, or after a prefix that
                is done.
            BackendError: a model fails.
        """
        for request in requests:
            if not 0 <= request.rung < len(self._rungs) or request.prefix.done:
                raise ConfigError(
                    f"request: expected rung 0 to {len(self._rungs) - 1} after a prefix that is "
                    f"not done, found rung {request.rung} after {request.prefix.text!r}"
                )
        found: dict[int, Prefix] = {}
        for number, rung in enumerate(self._rungs):
            places = [i for i, request in enumerate(requests) if request.rung == number]
            for start in range(0, len(places), JOBS_AT_A_TIME):
                some = places[start : start + JOBS_AT_A_TIME]
                written = self._write(rung, [requests[i] for i in some])
                found.update(zip(some, written, strict=True))
        return [found[i] for i in range(len(requests))]

    def _write(self, rung: SegmentModel, requests: Sequence[SegmentRequest]) -> list[Prefix]:
        started = time.perf_counter()
        drafts = [Draft(request) for request in requests]
        self._recall(rung, drafts)
        self._decode(rung, drafts)
        if rung.local.rung == 0:
            self._finish(drafts)
        else:
            self._hand_back(drafts)
        wall_s = (time.perf_counter() - started) / max(sum(d.processed for d in drafts), 1)
        return [self._longer(rung, draft, wall_s) for draft in drafts]

    def _recall(self, rung: SegmentModel, drafts: Sequence[Draft]) -> None:
        """Let a model read what it has not read of the prefixes, each prefix once."""
        number, pieces = rung.local.rung, {}
        for draft in drafts:
            prefix = draft.request.prefix
            if number not in prefix.memory and id(prefix) not in pieces:
                pieces[id(prefix)] = self._unread(rung, prefix)
                draft.prefill = len(pieces[id(prefix)].tokens)
                rung.check_room(prefix.question, pieces[id(prefix)].past_tokens + draft.prefill)
        memories = dict(zip(pieces, read(rung.local.model, list(pieces.values())), strict=True))
        for draft in drafts:
            prefix = draft.request.prefix
            if number not in prefix.memory:
                prefix.memory[number] = memories[id(prefix)]
            draft.before = prefix.memory[number]
            draft.cached = draft.before.num_tokens - draft.prefill

    def _unread(self, rung: SegmentModel, prefix: Prefix) -> Piece:
        """What a model has not read of a prefix."""
        known: Prefix | None = prefix
        texts: list[str] = []
        while known is not None and rung.local.rung not in known.memory:
            texts += [known.segment.text] if known.segment is not None else []
            known = known.before
        tokens = rung.tokens("".join(reversed(texts)))
        if known is not None:
            return Piece(tokens, known.memory[rung.local.rung])
        request = Request(question=prefix.question, action=ActionKind.SAMPLE)
        return Piece((*rung.local.encode(request), *tokens))

    def _decode(self, rung: SegmentModel, drafts: Sequence[Draft]) -> None:
        for decoder, to_end in ((rung.segments, False), (rung.attempts, True)):
            jobs = []
            for draft in drafts:
                request = draft.request
                if request.to_end is not to_end:
                    continue
                room = min(
                    self.max_new_tokens - request.prefix.num_tokens,
                    rung.local.context_tokens - draft.before.num_tokens,
                )
                if not to_end:
                    room = min(room, self.segmentation.max_tokens)
                if room < 1:
                    raise BackendError(
                        f"{request.prefix.question.question_id}: expected room for another token, "
                        f"found an attempt of {request.prefix.num_tokens} with a limit of "
                        f"{self.max_new_tokens}"
                    )
                stream = self._stream(rung.local.name, request)
                prompt = prompt_of(draft.before)
                jobs.append(Job(prompt, stream, room, draft.generation, keeps=not to_end))
            jobs.sort(key=lambda job: len(job.prompt.tokens))
            decoder.run(deque(jobs))

    def _stream(self, model: str, request: SegmentRequest) -> str:
        """Name of the random stream of a segment; no two segments share one."""
        prefix = request.prefix
        digest = hashlib.blake2b(prefix.text.encode(), digest_size=12).hexdigest()
        kind = "attempt's rest" if request.to_end else "segment"
        identity = [self.seed, prefix.question.question_id, model, kind, prefix.attempt, digest]
        return json.dumps([*identity, request.index])

    def _finish(self, drafts: Sequence[Draft]) -> None:
        """Feed back the last token of what the small model wrote, unless the attempt ends."""
        small = self._rungs[0]
        open_drafts = [draft for draft in drafts if not small.ends(draft)]
        pieces = [
            Piece((draft.generation.tokens[-1],), draft.before, draft.generation.memory)
            for draft in open_drafts
        ]
        for draft, last in zip(open_drafts, read(small.local.model, pieces), strict=True):
            written, layers = draft.generation.tokens, draft.generation.memory
            assert layers is not None
            draft.small = draft.before.longer(written, layers, last)

    def _hand_back(self, drafts: Sequence[Draft]) -> None:
        """Let the small model read what the large one wrote, unless the attempt ends."""
        small, open_drafts, pieces = self._rungs[0], [], []
        for draft in drafts:
            rung = self._rungs[draft.request.rung]
            if rung.ends(draft):
                continue
            known = draft.small = draft.request.prefix.memory[0]
            tokens = small.tokens(rung.text(draft.generation))
            if tokens:  # there are none if the large model wrote special ones alone
                open_drafts.append(draft)
                pieces.append(Piece(tokens, known))
        for draft, memory in zip(open_drafts, read(small.local.model, pieces), strict=True):
            draft.small, draft.handed = memory, len(memory.tokens)

    def _longer(self, rung: SegmentModel, draft: Draft, wall_s: float) -> Prefix:
        prefix, generation, memory = draft.request.prefix, draft.generation, draft.small
        number, logprobs = rung.local.rung, generation.logprobs
        usage = {
            number: Usage(
                prefill_tokens=draft.prefill,
                cached_tokens=draft.cached,
                decoded_tokens=len(generation.tokens),
                cancelled_tokens=generation.cancelled_tokens,
                serial_rounds=1,
                wall_s=(draft.processed - draft.handed) * wall_s,
            )
        }
        if draft.handed:
            usage[0] = Usage(
                prefill_tokens=draft.handed,
                cached_tokens=prefix.memory[0].num_tokens,
                wall_s=draft.handed * wall_s,
            )
        text = rung.text(generation)
        segment = Segment(
            model=rung.local.name,
            rung=number,
            text=text,
            num_tokens=len(generation.tokens),
            small_tokens=draft.handed if number else len(generation.tokens),
            mean_logprob=float(logprobs.mean()) if len(logprobs) else None,
            min_logprob=float(logprobs.min()) if len(logprobs) else None,
            entropy=None if memory is None else entropy(memory.logits),
            done=memory is None,
            error=generation.error,
            usage=self._by_rung(usage),
        )
        return Prefix(
            question=prefix.question,
            attempt=prefix.attempt,
            prompt_tokens=prefix.prompt_tokens,
            before=prefix,
            segment=segment,
            **self._seen(memory),
            memory={} if memory is None else {0: memory},
        )

    def force(self, prefixes: Sequence[Prefix]) -> list[ForcedAnswer]:
        """What the small model answers after each prefix, at temperature 0.

        Raises:
            BackendError: the model fails, or the answer would not fit into its context.
        """
        answers: list[ForcedAnswer] = []
        for start in range(0, len(prefixes), JOBS_AT_A_TIME):
            answers += self._force(prefixes[start : start + JOBS_AT_A_TIME])
        return answers

    def _force(self, prefixes: Sequence[Prefix]) -> list[ForcedAnswer]:
        started, small = time.perf_counter(), self._rungs[0]
        phrases = [_phrase(prefix.text) for prefix in prefixes]
        pieces = [
            Piece(small.tokens(phrase), prefix.memory[0])
            for phrase, prefix in zip(phrases, prefixes, strict=True)
        ]
        memories = read(small.local.model, pieces)
        jobs = []
        for prefix, memory in zip(prefixes, memories, strict=True):
            small.check_room(prefix.question, memory.num_tokens + MAX_FORCED_TOKENS)
            jobs.append(Job(prompt_of(memory), "", MAX_FORCED_TOKENS, Generation()))
        small.forced.run(deque(sorted(jobs, key=lambda job: len(job.prompt.tokens))))
        read_tokens = sum(
            len(p.tokens) + len(j.generation.tokens) for p, j in zip(pieces, jobs, strict=True)
        )
        wall_s = (time.perf_counter() - started) / max(read_tokens, 1)
        return [
            self._forced(prefix, phrase, piece, job.generation, wall_s)
            for prefix, phrase, piece, job in zip(prefixes, phrases, pieces, jobs, strict=True)
        ]

    def _forced(
        self, prefix: Prefix, phrase: str, piece: Piece, generation: Generation, wall_s: float
    ) -> ForcedAnswer:
        text = phrase + self._rungs[0].text(generation)
        tokens = len(generation.tokens)
        usage = Usage(
            prefill_tokens=len(piece.tokens),
            cached_tokens=piece.past_tokens,
            decoded_tokens=tokens,
            serial_rounds=1,
            wall_s=(len(piece.tokens) + tokens) * wall_s,
        )
        return ForcedAnswer(
            answer=None if generation.error else self._read(prefix, prefix.text + text),
            text=text,
            num_tokens=len(piece.tokens) + tokens,
            usage=self._by_rung({0: usage}),
        )

    def answer(self, prefix: Prefix) -> str | None:
        """The answer that an attempt states once it is done; None if it failed."""
        failed = any(segment.error for segment in prefix.segments)
        return None if failed else self._read(prefix, prefix.text)

    def _read(self, prefix: Prefix, text: str) -> str | None:
        return read_answer(text, prefix.question.answers, self.answers)


def segment_writer(
    checkpoint: Checkpoint[SegmentConfig],
    models: Sequence[LocalModel],
    seed: int,
    answers: AnswerKind,
) -> SegmentWriter:
    """Writes segments as those that a controller was trained on."""
    return SegmentWriter(
        models,
        seed=seed,
        temperature=recorded_temperature(checkpoint.models),
        segmentation=checkpoint.config.segmentation,
        max_new_tokens=checkpoint.config.max_tokens,
        value=checkpoint.value,
        answers=answers,
    )


def _phrase(text: str) -> str:
    r"""What forces an answer after a text: on a line of its own.

    >>> _phrase("1+1=2\n"), _phrase("1+1")
    ('Answer:', '\nAnswer:')
    """
    return ANSWER_PHRASE if not text or text.endswith("\n") else "\n" + ANSWER_PHRASE
