"""The jobs that a decoder works on, and the tokens that they have written so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from controller.backends.base import Flag
from controller.backends.identity import uniforms
from controller.backends.local.adapters import BASE
from controller.backends.local.rows import KeysValues, PromptCache, RowBlock, RowCache
from controller.backends.local.sampling import choose_tokens

NOT_FINITE = "logits: expected finite numbers, found NaN or infinity"
UNWANTED = "cancelled: nobody waits for it any more"


@dataclass(eq=False)
class Prompt:
    """A prompt, shared by all jobs that start from it.

    Attributes:
        tokens: its token ids.
        adapter: that it and its attempts go through.
        cache: None until it has been pre-filled.
        error: why it could not be; None when it could.
        unbilled_tokens: tokens pre-filled that no attempt has been charged with yet.
    """

    tokens: tuple[int, ...]
    adapter: str = BASE
    cache: PromptCache | None = None
    error: str | None = None
    unbilled_tokens: int = 0

    @property
    def hidden(self) -> torch.Tensor | None:
        """Last hidden state at its last token, (H,); None if that is not known."""
        return self.cache.hidden if self.cache is not None else None

    def bill(self) -> int:
        """Tokens that the caller pays for: all of them the first time, then none."""
        tokens, self.unbilled_tokens = self.unbilled_tokens, 0
        return tokens


@dataclass(eq=False)
class Generation:
    """What became of a job.

    Attributes:
        tokens: token ids written, the end token included.
        logprobs: of each at temperature 1, in nats, (tokens,) float32.
        prefill_tokens: prompt tokens that went through the model on its account.
        cached_tokens: prompt tokens whose keys and values it found.
        cancelled_tokens: tokens written in a batch that failed, before it was tried again, or
            before the attempt was given up.
        error: why it failed; None when it did not.
        memory: keys and values of all its tokens but the last, which was never fed back, as
            `RowCache.columns` returns them; only of jobs that keep them.
    """

    tokens: list[int] = field(default_factory=list)
    logprobs: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
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
        prompt: where it starts.
        stream: name of its random stream.
        max_tokens: longest that it may become, at least 1.
        generation: filled in by `Decoder.run`.
        unwanted: set once nobody waits for it any more.
        keeps: whether the generation is to have a memory.
    """

    prompt: Prompt
    stream: str
    max_tokens: int
    generation: Generation
    unwanted: Flag | None = None
    keeps: bool = False

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits for it."""
        return self.unwanted is None or not self.unwanted.is_set()


@dataclass(frozen=True, eq=False)
class Stash:
    """Jobs set aside in the middle of being written.

    Attributes:
        jobs: K of them.
        state: the tensors of `JobRows.state`, K rows of each.
        block: their keys and values.
    """

    jobs: list[Job]
    state: tuple[torch.Tensor, ...]
    block: RowBlock

    def __getitem__(self, rows: slice) -> Stash:
        """A part of the jobs, sharing memory."""
        return Stash(self.jobs[rows], tuple(x[rows] for x in self.state), self.block[rows])


class Parked:
    """Stashes by the width, in columns, that they wait for."""

    def __init__(self) -> None:
        self._stashes: dict[int, list[Stash]] = {}

    def __bool__(self) -> bool:
        return bool(self._stashes)

    def widths(self) -> list[int]:
        """Widths that some job waits for, the narrowest first."""
        return sorted(self._stashes)

    @property
    def num_jobs(self) -> int:
        """Jobs that wait, for whichever width."""
        return sum(self.count(width) for width in self._stashes)

    def count(self, width: int) -> int:
        """Jobs that wait for a width."""
        return sum(len(stash.jobs) for stash in self._stashes.get(width, ()))

    def add(self, width: int, stash: Stash) -> None:
        """Set jobs aside."""
        self._stashes.setdefault(width, []).append(stash)

    def take(self, width: int, most: int) -> Stash:
        """Up to `most` of the jobs that wait for a width; there must be some."""
        stashes = self._stashes[width]
        stash = stashes.pop()
        if len(stash.jobs) > most:
            stashes.append(stash[most:])
        if not stashes:
            del self._stashes[width]
        return stash[:most]


class JobRows:
    """The jobs that are being written, row by row; all tensors are on the model's device.

    Args:
        max_rows: most jobs at a time, R.
        max_tokens: longest attempt, M.
        cache: keys and values of the same rows.
    """

    def __init__(self, max_rows: int, max_tokens: int, cache: RowCache) -> None:
        device = cache.lengths.device
        self.cache = cache
        self.jobs: list[Job] = []
        self.written = torch.zeros(max_rows, dtype=torch.long, device=device)  # (R,)
        self.limits = torch.zeros(max_rows, dtype=torch.long, device=device)  # (R,)
        self.tokens = torch.zeros(max_rows, max_tokens, dtype=torch.long, device=device)  # (R, M)
        self.logprobs = torch.zeros(max_rows, max_tokens, device=device)  # (R, M)
        self.draws = torch.zeros(max_rows, max_tokens, dtype=torch.float64, device=device)

    @property
    def state(self) -> tuple[torch.Tensor, ...]:
        """All that there is to a row beside its job, keys and values, (R, ...) each."""
        return self.written, self.limits, self.tokens, self.logprobs, self.draws

    @property
    def num_free(self) -> int:
        """Rows of the cache that could take a job."""
        return self.cache.num_rows - len(self.jobs)

    def load(self, jobs: Sequence[tuple[Job, PromptCache]]) -> None:
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

    def stash(self, rows: torch.Tensor) -> Stash:
        """Take jobs (K,) out, to be put back later."""
        state = tuple(x[rows] for x in self.state)
        stash = Stash([self.jobs[row] for row in rows.tolist()], state, self.cache.take(rows))
        self.remove(rows)
        return stash

    def unstash(self, stash: Stash) -> None:
        """Append jobs that were taken out."""
        first = len(self.jobs)
        self.jobs.extend(stash.jobs)
        for mine, theirs in zip(self.state, stash.state, strict=True):
            mine[first : len(self.jobs)] = theirs
        self.cache.put(stash.block)

    def last_tokens(self) -> torch.Tensor:
        """What each row wrote last, (N, 1)."""
        active = len(self.jobs)
        return self.tokens[:active].gather(1, self.written[:active, None] - 1)

    def write(
        self, first: int, logits: torch.Tensor, temperature: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sample a token in the rows from `first` on.

        Args:
            first: row of the first of the logits.
            logits: (K, V).
            temperature: as in `choose_tokens`.

        Returns:
            the tokens (K,) and their log-probabilities (K,), as in `choose_tokens`.
        """
        rows = slice(first, len(self.jobs))
        columns = self.written[rows, None]  # (K, 1)
        draws = self.draws[rows].gather(1, columns)[:, 0]  # (K,)
        tokens, logprobs = choose_tokens(logits, draws, temperature)
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

    def remove(self, ended: torch.Tensor) -> None:
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
