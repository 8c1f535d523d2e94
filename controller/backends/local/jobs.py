"""The jobs that a decoder works on, and how they write their tokens."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Event

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from controller.backends.identity import uniforms
from controller.backends.local.kv import BASE, NOT_FINITE, KeysValues, KVBatch, KVPrefix

UNWANTED = "cancelled: nobody waits for it any more"
BLOCK = 2048
"""Tokens that are summed up together before a draw looks into one of the blocks."""
NUMBERS_IN_CACHE = 2**20
"""Log-probabilities that a processor draws from at a time: its cache holds so many."""


@dataclass(eq=False)
class Prompt:
    """A prompt, shared by all jobs that start from it.

    Attributes:
        cache: None until it has been pre-filled.
        before: what the model has read of its beginning already; fewer tokens than it has.
        unbilled_tokens: tokens pre-filled that no attempt has been charged with yet.
    """

    tokens: tuple[int, ...]
    adapter: str = BASE
    cache: KVPrefix | None = None
    before: KVPrefix | None = None
    error: str | None = None
    unbilled_tokens: int = 0

    @property
    def fresh(self) -> tuple[int, ...]:
        """Tokens that the model has yet to read before it can write."""
        return self.tokens[self.before.num_tokens :] if self.before else self.tokens

    @property
    def hidden(self) -> Tensor | None:
        """Last hidden state at its last token, (H,); None if that is not known."""
        return None if self.cache is None else self.cache.hidden

    def bill(self) -> int:
        """Tokens that the caller pays for: all of them the first time, then none."""
        tokens, self.unbilled_tokens = self.unbilled_tokens, 0
        return tokens


def prompt_of(prefix: KVPrefix) -> Prompt:
    """A prompt that has been read, for jobs to go on from."""
    whole = prefix.whole()
    return Prompt(whole.tokens, cache=whole)


@dataclass(eq=False)
class Generation:
    """What became of a job.

    Attributes:
        prompt_tokens: length of its prompt, for those who ask.
        tokens: token ids written, the end token included.
        logprobs: of each at temperature 1, in nats, (tokens,) float32.
        cancelled_tokens: tokens written in a batch that failed, before it was tried again, or
            before the attempt was given up.
        memory: keys and values of all its tokens but the last, which was never fed back, as
            `KVBatch.columns` returns them; only of jobs that keep them.
    """

    tokens: list[int] = field(default_factory=list)
    logprobs: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
    prompt_tokens: int = 0
    prefill_tokens: int = 0
    cached_tokens: int = 0
    cancelled_tokens: int = 0
    error: str | None = None
    memory: KeysValues | None = None

    @property
    def processed_tokens(self) -> int:
        """Tokens that went through the model on its account."""
        return self.prefill_tokens + self.cancelled_tokens + len(self.tokens)


@dataclass(eq=False)
class Job:
    """One attempt to be written.

    Attributes:
        max_tokens: longest that it may become, at least 1.
        temperature: of its sampling; 0 takes the likeliest token each time.
        on_token: told the place, the id and the log-probability of each token as it is written;
            one that is not finite ends it.
        keeps: whether the generation is to have a memory.
    """

    prompt: Prompt
    stream: str
    max_tokens: int
    generation: Generation
    temperature: float
    unwanted: Event | None = None
    on_token: Callable[[int, int, float], None] | None = None
    keeps: bool = False

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits for it."""
        return self.unwanted is None or not self.unwanted.is_set()


PausedRows = tuple[list[Job], tuple[Tensor, ...]]
"""Jobs set aside in the middle of being written, and what `RunningBatch.pause` kept of K rows."""


class WaitingByWidth:
    """Paused jobs by the width, in columns, that they wait for."""

    def __init__(self) -> None:
        self._paused: defaultdict[int, list[PausedRows]] = defaultdict(list)

    def counts(self) -> dict[int, int]:
        """Jobs by the width that they wait for, the narrowest first."""
        counts = {width: self.count(width) for width in sorted(self._paused)}
        return {width: count for width, count in counts.items() if count}

    def count(self, width: int) -> int:
        """Jobs that wait for a width."""
        return sum(len(jobs) for jobs, _ in self._paused[width])

    def add(self, width: int, rows: PausedRows) -> None:
        """Set jobs aside."""
        self._paused[width].append(rows)

    def take(self, width: int, most: int) -> PausedRows:
        """Up to `most` of the jobs that wait for a width; there must be some."""
        jobs, state = self._paused[width].pop()
        if len(jobs) > most:
            self.add(width, (jobs[most:], tuple(x[most:] for x in state)))
        return jobs[:most], tuple(x[:most] for x in state)


class RunningBatch:
    """The jobs that are being written, row by row; all tensors are on the model's device.

    There are R rows at most, for attempts of M tokens at most.
    """

    def __init__(self, max_rows: int, max_tokens: int, cache: KVBatch) -> None:
        device = cache.lengths.device
        self.cache = cache
        self.jobs: list[Job] = []
        self.written = torch.zeros(max_rows, dtype=torch.long, device=device)  # (R,)
        self.limits = torch.zeros(max_rows, dtype=torch.long, device=device)  # (R,)
        self.tokens = torch.zeros(max_rows, max_tokens, dtype=torch.long, device=device)  # (R, M)
        self.logprobs = torch.zeros(max_rows, max_tokens, device=device)  # (R, M)
        self.draws = torch.zeros(max_rows, max_tokens, dtype=torch.float64, device=device)

    @property
    def state(self) -> tuple[Tensor, ...]:
        """All that there is to a row beside its job, keys and values, (R, ...) each."""
        return self.written, self.limits, self.tokens, self.logprobs, self.draws

    @property
    def num_free(self) -> int:
        """Rows of the cache that could take a job."""
        return self.cache.num_rows - len(self.jobs)

    def load(self, jobs: Sequence[tuple[Job, KVPrefix]]) -> None:
        """Append jobs, each with its prompt's keys and values."""
        first = len(self.jobs)
        self.jobs.extend(job for job, _ in jobs)
        self.written[first : len(self.jobs)] = 0
        for row, (job, _) in enumerate(jobs, start=first):
            self.limits[row] = job.max_tokens
            self.draws[row, : job.max_tokens] = torch.from_numpy(
                uniforms(job.stream, job.max_tokens)
            )
        self.cache.load([cache for _, cache in jobs])

    def pause(self, rows: Tensor) -> PausedRows:
        """Take jobs (K,) out, to be put back later."""
        state = (*(x[rows] for x in self.state), *self.cache.take(rows))
        jobs = [self.jobs[row] for row in rows.tolist()]
        self.remove(rows)
        return jobs, state

    def resume(self, paused: PausedRows) -> None:
        """Append jobs that were taken out."""
        (jobs, state), first, own = paused, len(self.jobs), len(self.state)
        self.jobs.extend(jobs)
        for mine, theirs in zip(self.state, state[:own], strict=True):
            mine[first : len(self.jobs)] = theirs
        self.cache.put(state[own:])

    def last_tokens(self) -> Tensor:
        """What each row wrote last, (N, 1)."""
        active = len(self.jobs)
        return self.tokens[:active].gather(1, self.written[:active, None] - 1)

    def write(self, first: int, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Sample a token in the rows from `first` on, from logits (K, V); see `choose_tokens`."""
        rows = slice(first, len(self.jobs))
        columns = self.written[rows, None]  # (K, 1)
        draws = self.draws[rows].gather(1, columns)[:, 0]  # (K,)
        wanted = [job.temperature for job in self.jobs[first:]]
        tokens, logprobs = choose_tokens(logits, draws, wanted[0])
        for other in set(wanted) - {wanted[0]}:
            here = torch.tensor([t == other for t in wanted], device=logits.device)  # (K,)
            tokens[here], logprobs[here] = choose_tokens(logits[here], draws[here], other)
        self.tokens[rows].scatter_(1, columns, tokens[:, None])
        self.logprobs[rows].scatter_(1, columns, logprobs[:, None])
        self.written[rows] += 1
        return tokens, logprobs

    def finish(self, row: int, error: str | None) -> None:
        """Hand a row's tokens to its job; a failed one may end in a token that is not its own."""
        count = int(self.written[row])
        if error == NOT_FINITE:
            count -= 1
        generation = self.jobs[row].generation
        if error == UNWANTED:
            generation.cancelled_tokens += count
            count = 0
        generation.tokens = self.tokens[row, :count].tolist()
        if self.jobs[row].keeps and error is None:
            begin = len(self.jobs[row].prompt.tokens)
            generation.memory = self.cache.columns(row, begin, begin + count - 1)
        generation.logprobs = self.logprobs[row, :count].cpu().numpy().copy()
        generation.error = error

    def remove(self, ended: Tensor) -> None:
        """Drop rows (K,), moving rows from the end into their places."""
        gone, active = set(ended.tolist()), len(self.jobs) - len(ended)
        targets = [row for row in sorted(gone) if row < active]
        sources = [row for row in range(active, len(self.jobs)) if row not in gone]
        to, of = (
            torch.tensor(x, dtype=torch.long, device=ended.device) for x in (targets, sources)
        )
        self.cache.move(of, to, active)
        for state in self.state:
            state[to] = state[of]
        for target, source in zip(targets, sources, strict=True):
            self.jobs[target] = self.jobs[source]
        del self.jobs[active:]

    def clear(self) -> None:
        """Drop all jobs, with their keys and values."""
        self.jobs.clear()
        self.cache.clear()


def choose_tokens(logits: Tensor, draws: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """One token per row, by inverting the cumulative distribution.

    Args:
        logits: (N, V).
        draws: (N,) float64 in [0, 1).
        temperature: 0 takes the likeliest token.

    Returns:
        tokens (N,) and their log-probabilities at temperature 1, in nats, (N,) float32; not
        finite where the logits are not.
    """
    rows = len(logits)
    if logits.device.type == "cpu":
        rows = max(1, NUMBERS_IN_CACHE // logits.shape[-1])
    parts = [
        _choose_part(*part, temperature)
        for part in zip(torch.split(logits, rows), torch.split(draws, rows), strict=True)
    ]
    tokens, logprobs = (torch.cat(x) for x in zip(*parts, strict=True))
    return tokens, logprobs


def _choose_part(logits: Tensor, draws: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    logprobs = logits.float().log_softmax(-1)  # (N, V)
    if temperature == 0:
        tokens = logits.argmax(-1)  # (N,)
    else:
        # From the likeliest token down, so that a low temperature underflows to 0 for others only.
        below = logprobs - logprobs.amax(-1, keepdim=True)
        tokens = _invert(below.div_(temperature).exp_(), draws)
    return tokens, logprobs.gather(-1, tokens[:, None])[:, 0]


def _invert(weights: Tensor, draws: Tensor) -> Tensor:
    """Where the cumulative sum of weights (N, V) passes a share (N,) of their total, (N,).

    Long sums go block by block: one block alone is looked into.
    """
    num_tokens = weights.shape[-1]
    if num_tokens <= BLOCK:
        cumulative = weights.cumsum(-1, dtype=torch.float64)  # (N, V)
        points = draws * cumulative[:, -1]  # (N,)
        found = torch.searchsorted(cumulative, points[:, None], right=True)[:, 0]
        return found.clamp_(max=num_tokens - 1)
    blocks = pad(weights, (0, -num_tokens % BLOCK)).view(len(weights), -1, BLOCK)  # (N, K, B)
    sums = blocks.sum(-1).double()  # (N, K)
    block = _invert(sums, draws)[:, None]  # (N, 1)
    ends, own = sums.cumsum(-1), sums.gather(-1, block)  # (N, K), (N, 1)
    share = (draws[:, None] * ends[:, -1:] - ends.gather(-1, block) + own) / own  # (N, 1)
    inside = blocks[torch.arange(len(blocks), device=block.device), block[:, 0]]  # (N, B)
    return (block[:, 0] * BLOCK + _invert(inside, share[:, 0])).clamp_(max=num_tokens - 1)
