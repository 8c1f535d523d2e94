"""Attempts written segment by segment by language models on this machine.

What the ledger of a segment says:

- `decoded_tokens` are the tokens written. Each goes through the small model once, the last one
  of a segment as well, so that it is ready to go on; only the token that ends an attempt or a
  forced answer is never fed back, nor is the last one that the large model writes.
- `prefill_tokens` are tokens that a model reads because another wrote them or because they
  were put into its mouth: the large model's prompt and the prefix that it takes over, what it
  then wrote (on the small model's account), the phrase that forces an answer.
- `cached_tokens` are those that a model takes over from what it has read before.
- `wall_s` is the time of the call, shared out evenly.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from controller.answers import UNSTATED, AnswerKind, answer_kind, read_answer
from controller.backends.base import TEMPERATURE, Request, recorded_temperature
from controller.backends.local.decoding import Decoder
from controller.backends.local.jobs import Generation, Job, prompt_of
from controller.backends.local.kv import KVPrefix, Piece, read_pieces
from controller.backends.local.model import LocalModel, check_rungs
from controller.checkpoint import Checkpoint
from controller.errors import BackendError, ConfigError
from controller.policy.readouts import Readout
from controller.process.actions import ActionKind
from controller.process.cost import Usage
from controller.process.types import Question
from controller.segments.episodes import SegmentConfig
from controller.segments.types import Prefix, Segment, Segmentation, SegmentRequest

ANSWER_PHRASE = "Answer:"
"""What is put into the small model's mouth to make it answer at once."""
MAX_FORCED_TOKENS = 32
"""Longest forced answer."""
JOBS_AT_A_TIME = 1024
"""Prefixes whose keys and values are put together at once."""


@dataclass(eq=False)
class _Draft:
    """A segment in the making.

    Attributes:
        before: what its writer remembers of the prefix.
        prefill: tokens of it that the writer had to read first.
        small: what the small model remembers in the end; None where the attempt ends.
        handed: tokens that the small model read for it.
    """

    request: SegmentRequest
    before: KVPrefix
    prefill: int
    generation: Generation = field(default_factory=Generation)
    small: KVPrefix | None = None
    handed: int = 0


class _Rung:
    """One model, with a decoder that ends where attempts end and one that ends with lines, too."""

    def __init__(self, local: LocalModel) -> None:
        every = local.tokenizer.batch_decode([[token] for token in range(len(local.tokenizer))])
        breaks = {token for token, text in enumerate(every) if "\n" in text}
        self.local, ends = local, local.end_tokens
        self.attempts, self.lines = (Decoder(local.model, x) for x in (ends, ends | breaks))

    def tokens(self, text: str) -> tuple[int, ...]:
        """Token ids of a piece of an attempt."""
        return tuple(self.local.tokenizer(text, add_special_tokens=False)["input_ids"])

    def text(self, generation: Generation) -> str:
        """What a generation says, without an end token."""
        return self.local.decode([t for t in generation.tokens if t not in self.local.end_tokens])

    def ends(self, draft: _Draft) -> bool:
        """Whether the attempt ends with what was written; it does if that failed."""
        generation = draft.generation
        failed = generation.error is not None or not generation.tokens
        return failed or draft.request.to_end or generation.tokens[-1] in self.local.end_tokens

    def check_room(self, question: Question, tokens: int) -> None:
        """Raise BackendError unless so many tokens and one more fit into the context."""
        if tokens >= self.local.context_tokens:
            raise BackendError(
                f"{question.question_id}: expected fewer tokens than the context's "
                f"{self.local.context_tokens}, found {tokens}"
            )


class SegmentWriter:
    """`SegmentBackend` on local models.

    Args:
        models: one per rung, the small one first.
        seed: of all random streams.
        temperature: of sampling; forced answers always take the likeliest token.
        segmentation: where segments end.
        max_new_tokens: longest attempt.
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
        answers: AnswerKind | None = None,
        value: Readout | None = None,
    ) -> None:
        check_rungs(models)
        self.seed, self.temperature = seed, temperature
        self.max_new_tokens, self.answers = max_new_tokens, answers or answer_kind(UNSTATED)
        self.value = value
        self.segmentation = segmentation or Segmentation()
        self._rungs = [_Rung(model) for model in models]
        self.models = tuple(model.spec(temperature, max_new_tokens) for model in models)

    def open(self, attempts: Sequence[tuple[Question, int]]) -> list[Prefix]:
        """Read the prompts of attempts with the small model, each question's once.

        Raises:
            BackendError: a prompt does not fit into the context, or the model fails.
        """
        started, small = time.perf_counter(), self._rungs[0]
        questions = {question.question_id: question for question, _ in attempts}
        asked = {n: Request(question=q, action=ActionKind.SAMPLE) for n, q in questions.items()}
        prompts = {n: [rung.local.encode(r) for rung in self._rungs] for n, r in asked.items()}
        for name, question in questions.items():
            small.check_room(question, len(prompts[name][0]))
        pieces = [Piece(prompt[0]) for prompt in prompts.values()]
        memories = dict(zip(questions, read_pieces(small.local.model, pieces), strict=True))
        wall_s = (time.perf_counter() - started) / max(len(attempts), 1)
        unpaid, prefixes = {name: len(prompt[0]) for name, prompt in prompts.items()}, []
        for question, attempt in attempts:
            name = question.question_id
            tokens, paid = len(prompts[name][0]), unpaid.pop(name, 0)
            usage = Usage(prefill_tokens=paid, cached_tokens=tokens - paid, wall_s=wall_s)
            prefixes.append(
                Prefix(
                    question=question,
                    attempt=attempt,
                    prompt_tokens=tuple(map(len, prompts[name])),
                    **self._seen(memories[name]),
                    usage=self._by_rung({0: usage}),
                    memory={0: memories[name]},
                )
            )
        return prefixes

    def _seen(self, memory: KVPrefix | None) -> dict[str, Any]:
        """What the small model's hidden state tells of a prefix; nothing once it is done."""
        if memory is None or memory.hidden is None:
            return {"hidden": None, "value": None}
        hidden = memory.hidden.cpu().numpy()
        value = None if self.value is None else float(self.value(hidden[None])[0, 0])
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

    def _write(self, rung: _Rung, requests: Sequence[SegmentRequest]) -> list[Prefix]:
        started = time.perf_counter()
        drafts = self._begin(rung, requests)
        to_line = rung.lines if self.segmentation.lines else rung.attempts
        self._decode(rung, [d for d in drafts if not d.request.to_end], to_line)
        self._decode(rung, [d for d in drafts if d.request.to_end], rung.attempts)
        self._read_on(rung, [draft for draft in drafts if not rung.ends(draft)])
        wall_s = (time.perf_counter() - started) / len(drafts)
        return [self._longer(rung, draft, wall_s) for draft in drafts]

    def _begin(self, rung: _Rung, requests: Sequence[SegmentRequest]) -> list[_Draft]:
        """Drafts, once a model has read what it has not read of the prefixes, each prefix once."""
        number = rung.local.rung
        prefixes = {id(r.prefix): r.prefix for r in requests if number not in r.prefix.memory}
        pieces = {name: self._unread(rung, prefix) for name, prefix in prefixes.items()}
        for name, piece in pieces.items():
            rung.check_room(prefixes[name].question, piece.past_tokens + len(piece.tokens))
        memories = read_pieces(rung.local.model, list(pieces.values()))
        for prefix, memory in zip(prefixes.values(), memories, strict=True):
            prefix.memory[number] = memory
        unpaid = {name: len(piece.tokens) for name, piece in pieces.items()}
        return [_Draft(r, r.prefix.memory[number], unpaid.pop(id(r.prefix), 0)) for r in requests]

    def _unread(self, rung: _Rung, prefix: Prefix) -> Piece:
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

    def _decode(self, rung: _Rung, drafts: Sequence[_Draft], decoder: Decoder) -> None:
        jobs = []
        for draft in drafts:
            request, prefix = draft.request, draft.request.prefix
            limits = [
                self.max_new_tokens - prefix.num_tokens,
                rung.local.context_tokens - draft.before.num_tokens,
                *([] if request.to_end else [self.segmentation.max_tokens]),
            ]
            if min(limits) < 1:
                raise BackendError(
                    f"{prefix.question.question_id}: expected room for another token, found an "
                    f"attempt of {prefix.num_tokens} with a limit of {self.max_new_tokens}"
                )
            stream, prompt = self._stream(rung.local.name, request), prompt_of(draft.before)
            jobs.append(
                Job(
                    prompt,
                    stream,
                    min(limits),
                    draft.generation,
                    self.temperature,
                    keeps=not request.to_end,
                )
            )
        _run(decoder, jobs)

    def _stream(self, model: str, request: SegmentRequest) -> str:
        """Name of the random stream of a segment; no two segments share one."""
        prefix = request.prefix
        digest = hashlib.blake2b(prefix.text.encode(), digest_size=12).hexdigest()
        kind = "attempt's rest" if request.to_end else "segment"
        identity = [self.seed, prefix.question.question_id, model, kind, prefix.attempt, digest]
        return json.dumps([*identity, request.index])

    def _read_on(self, rung: _Rung, drafts: Sequence[_Draft]) -> None:
        """Let the small model read what attempts go on from.

        That is the last token that it wrote, or all that another model wrote.
        """
        small, pieces = self._rungs[0], {}
        for draft in drafts:
            generation = draft.generation
            if rung is small:
                last = (generation.tokens[-1],)
                pieces[draft] = Piece(last, draft.before, generation.memory)
                continue
            draft.small = draft.request.prefix.memory[0]
            tokens = small.tokens(rung.text(generation))
            if tokens:  # there are none if the large model wrote special ones alone
                pieces[draft] = Piece(tokens, draft.small)
        memories = read_pieces(small.local.model, list(pieces.values()))
        for draft, memory in zip(pieces, memories, strict=True):
            written, layers = draft.generation.tokens, draft.generation.memory
            if rung is small:
                assert layers is not None
                draft.small = draft.before.longer(written, layers, memory)
            else:
                draft.small, draft.handed = memory, len(memory.tokens)

    def _longer(self, rung: _Rung, draft: _Draft, wall_s: float) -> Prefix:
        prefix, generation, memory = draft.request.prefix, draft.generation, draft.small
        number, logprobs = rung.local.rung, generation.logprobs
        text, written = rung.text(generation), len(generation.tokens)
        usage = {
            number: Usage(
                prefill_tokens=draft.prefill,
                cached_tokens=draft.before.num_tokens - draft.prefill,
                decoded_tokens=written,
                cancelled_tokens=generation.cancelled_tokens,
                serial_rounds=1,
                wall_s=wall_s,
            )
        }
        if draft.handed:
            known = prefix.memory[0].num_tokens
            usage[0] = Usage(prefill_tokens=draft.handed, cached_tokens=known)
        failed = generation.error or any(segment.error for segment in prefix.segments)
        states = memory is None and not failed
        cut = not rung.local.end_tokens.intersection(generation.tokens[-1:])
        segment = Segment(
            model=rung.local.name,
            rung=number,
            text=text,
            num_tokens=written,
            small_tokens=draft.handed if number else written,
            mean_logprob=float(logprobs.mean()) if len(logprobs) else None,
            min_logprob=float(logprobs.min()) if len(logprobs) else None,
            entropy=None if memory is None else entropy(memory.logits),
            done=memory is None,
            answer=self._read(prefix, prefix.text + text, cut=cut) if states else None,
            error=generation.error,
            usage=self._by_rung(usage),
        )
        return replace(
            prefix,
            before=prefix,
            segment=segment,
            usage=(),
            memory={} if memory is None else {0: memory},
            **self._seen(memory),
        )

    def force(self, prefixes: Sequence[Prefix]) -> list[Segment]:
        """What the small model answers after each prefix, at temperature 0.

        Raises:
            BackendError: the model fails, or the answer would not fit into its context.
        """
        answers: list[Segment] = []
        for start in range(0, len(prefixes), JOBS_AT_A_TIME):
            answers += self._force(prefixes[start : start + JOBS_AT_A_TIME])
        return answers

    def _force(self, prefixes: Sequence[Prefix]) -> list[Segment]:
        started, small = time.perf_counter(), self._rungs[0]
        phrases = [_phrase(prefix.text) for prefix in prefixes]
        pieces = [
            Piece(small.tokens(phrase), prefix.memory[0])
            for phrase, prefix in zip(phrases, prefixes, strict=True)
        ]
        jobs = []
        for prefix, memory in zip(prefixes, read_pieces(small.local.model, pieces), strict=True):
            small.check_room(prefix.question, memory.num_tokens + MAX_FORCED_TOKENS)
            jobs.append(Job(prompt_of(memory), "", MAX_FORCED_TOKENS, Generation(), temperature=0))
        _run(small.lines, jobs)
        wall_s, forced = (time.perf_counter() - started) / len(prefixes), []
        for prefix, phrase, piece, job in zip(prefixes, phrases, pieces, jobs, strict=True):
            said, tokens = phrase + small.text(job.generation), len(job.generation.tokens)
            usage = Usage(
                prefill_tokens=len(piece.tokens),
                cached_tokens=piece.past_tokens,
                decoded_tokens=tokens,
                serial_rounds=1,
                wall_s=wall_s,
            )
            failed = job.generation.error
            forced.append(
                Segment(
                    model=small.local.name,
                    rung=0,
                    text=said,
                    num_tokens=len(piece.tokens) + tokens,
                    answer=None if failed else self._read(prefix, prefix.text + said),
                    error=failed,
                    usage=self._by_rung({0: usage}),
                )
            )
        return forced

    def _read(self, prefix: Prefix, text: str, *, cut: bool = False) -> str | None:
        return read_answer(text, prefix.question.answers, self.answers, cut=cut)


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


def _run(decoder: Decoder, jobs: Sequence[Job]) -> None:
    decoder.run(deque(sorted(jobs, key=lambda job: len(job.prompt.tokens))))


def entropy(logits: torch.Tensor) -> float:
    """Of a token's distribution, (V,), in nats."""
    logprobs = logits.double().log_softmax(-1)
    return float(-(logprobs.exp() * logprobs.nan_to_num(neginf=0.0)).sum())


def _phrase(text: str) -> str:
    r"""What forces an answer after a text: on a line of its own.

    >>> _phrase("1+1=2\n"), _phrase("1+1")
    ('Answer:', '\nAnswer:')
    """
    return ANSWER_PHRASE if not text or text.endswith("\n") else "\n" + ANSWER_PHRASE
