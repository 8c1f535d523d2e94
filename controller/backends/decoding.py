"""Many attempts written at once by one local model.

Each prompt is pre-filled once. A row that ends gives its place to the last row, and free
places to waiting jobs, so only rows that are still being written go through the model. The
last token of an attempt is never fed back: writing n tokens takes n - 1 forward passes after
the prompt's.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel

from controller.backends.rows import PromptCache, RowCache

MODEL_ERRORS = (RuntimeError, ValueError, IndexError)
"""What a forward pass raises when it fails; running out of memory is a RuntimeError."""

NOT_FINITE = "logits: expected finite numbers, found NaN or infinity"
MAX_PREFILL_TOKENS = 8192
MAX_PADDING_RATIO = 1.25
REFILL_SHARE = 8
"""Waiting jobs are let in when this fraction (1 / REFILL_SHARE) of the rows is free."""


@dataclass(eq=False)
class Prompt:
    """A prompt, shared by all jobs that start from it.

    Attributes:
        tokens: its token ids.
        cache: None until it has been pre-filled.
        error: why it could not be; None when it could.
        unbilled_tokens: tokens pre-filled that no attempt has been charged with yet.
    """

    tokens: tuple[int, ...]
    cache: PromptCache | None = None
    error: str | None = None
    unbilled_tokens: int = 0

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
        cancelled_tokens: tokens written in a batch that failed, before it was tried again.
        error: why it failed; None when it did not.
    """

    tokens: list[int] = field(default_factory=list)
    logprobs: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
    prefill_tokens: int = 0
    cancelled_tokens: int = 0
    error: str | None = None


@dataclass(eq=False)
class Job:
    """One attempt to be written.

    Attributes:
        prompt: where it starts.
        stream: name of its random stream.
        max_tokens: longest that it may become, at least 1.
        generation: filled in by `Decoder.run`.
    """

    prompt: Prompt
    stream: str
    max_tokens: int
    generation: Generation


def uniforms(stream: str, count: int) -> np.ndarray:
    """A job's random numbers, one per token: (count,) float64 in [0, 1).

    >>> bool((uniforms("a", 3) == uniforms("a", 5)[:3]).all())
    True
    """
    key = int.from_bytes(hashlib.blake2b(stream.encode(), digest_size=16).digest(), "big")
    return np.random.Generator(np.random.Philox(key=key)).random(count)


def choose_tokens(
    logits: torch.Tensor, draws: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """One token per row, by inverting the cumulative distribution.

    Args:
        logits: (N, V).
        draws: (N,) float64 in [0, 1).
        temperature: 0 takes the likeliest token.

    Returns:
        tokens (N,) and their log-probabilities at temperature 1, in nats, (N,) float32; not
        finite where the logits are not.
    """
    logprobs = logits.float().log_softmax(-1)  # (N, V)
    if temperature == 0:
        tokens = logits.argmax(-1)  # (N,)
    else:
        tempered = logprobs if temperature == 1 else (logprobs / temperature).log_softmax(-1)
        cumulative = tempered.exp().cumsum(-1, dtype=torch.float64)  # (N, V)
        points = draws * cumulative[:, -1]  # (N,)
        tokens = torch.searchsorted(cumulative, points[:, None], right=True)[:, 0]
        tokens = tokens.clamp_(max=logits.shape[-1] - 1)
    return tokens, logprobs.gather(-1, tokens[:, None])[:, 0]


class _Rows:
    """The jobs that are being written, row by row; all tensors are on the model's device.

    Args:
        num_rows: most jobs at a time, R.
        max_tokens: longest attempt, M.
        cache: keys and values of the same rows.
    """

    def __init__(self, num_rows: int, max_tokens: int, cache: RowCache) -> None:
        device = cache.lengths.device
        self.cache = cache
        self.jobs: list[Job] = []
        self.written = torch.zeros(num_rows, dtype=torch.long, device=device)  # (R,)
        self.limits = torch.zeros(num_rows, dtype=torch.long, device=device)  # (R,)
        self.tokens = torch.zeros(num_rows, max_tokens, dtype=torch.long, device=device)  # (R, M)
        self.logprobs = torch.zeros(num_rows, max_tokens, device=device)  # (R, M)
        self.draws = torch.zeros(num_rows, max_tokens, dtype=torch.float64, device=device)

    @property
    def num_free(self) -> int:
        """Rows that could take a job."""
        return len(self.written) - len(self.jobs)

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
        generation.tokens = self.tokens[row, :count].tolist()
        generation.logprobs = self.logprobs[row, :count].cpu().numpy().copy()
        generation.error = error

    def remove(self, ended: torch.Tensor) -> None:
        """Drop rows (K,), moving rows from the end into their places."""
        gone, active = set(ended.tolist()), len(self.jobs) - len(ended)
        targets = [row for row in sorted(gone) if row < active]
        sources = [row for row in range(active, len(self.jobs)) if row not in gone]
        to, of = (torch.tensor(x, dtype=torch.long, device=ended.device) for x in (targets, sources))
        self.cache.move(of, to, active)
        for state in (self.written, self.limits, self.tokens, self.logprobs, self.draws):
            state[to] = state[of]
        for target, source in zip(targets, sources, strict=True):
            self.jobs[target] = self.jobs[source]
        del self.jobs[active:]

    def clear(self) -> None:
        """Drop all jobs, with their keys and values."""
        self.jobs.clear()
        self.cache.clear()


class Decoder:
    """Pre-fills prompts and writes attempts.

    Args:
        model: a causal language model with plain key/value caches.
        end_tokens: ids that end an attempt.
        temperature: 0 takes the likeliest token each time.
        max_rows: attempts written side by side.
        keep_hidden: keep each prompt's last hidden state.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        end_tokens: Sequence[int],
        *,
        temperature: float,
        max_rows: int,
        keep_hidden: bool,
    ) -> None:
        self.model, self.temperature, self.max_rows = model, temperature, max_rows
        self.keep_hidden = keep_hidden
        self.end_tokens = torch.tensor(sorted(end_tokens), device=model.device)  # (E,)

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Prompt]) -> None:
        """Fill in `cache`, or `error`, of those prompts that have neither."""
        missing = [p for p in dict.fromkeys(prompts) if p.cache is None and p.error is None]
        for batch in _prefill_batches(missing):
            self._prefill_batch(batch)

    def _prefill_batch(self, batch: list[Prompt]) -> None:
        try:
            caches = self._prompt_caches([prompt.tokens for prompt in batch])
        except MODEL_ERRORS as error:
            if len(batch) == 1:
                batch[0].error = f"prefill: {error}"
                return
            for prompt in batch:
                self._prefill_batch([prompt])
            return
        for prompt, cache in zip(batch, caches, strict=True):
            prompt.unbilled_tokens += len(prompt.tokens)
            if bool(cache.logits.logsumexp(-1).isfinite()):
                prompt.cache = cache
            else:
                prompt.error = NOT_FINITE

    def _prompt_caches(self, prompts: list[tuple[int, ...]]) -> list[PromptCache]:
        lengths = torch.tensor([len(tokens) for tokens in prompts])  # (B,)
        columns = torch.arange(int(lengths.max()))  # (L,)
        mask = (columns < lengths[:, None]).long()  # (B, L)
        ids = torch.zeros_like(mask)  # (B, L)
        for row, tokens in enumerate(prompts):
            ids[row, : len(tokens)] = torch.tensor(tokens)
        device = self.model.device
        last = (lengths - 1).to(device)  # (B,)
        output = self.model(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            position_ids=columns.expand_as(ids).to(device),
            past_key_values=DynamicCache(),
            use_cache=True,
            output_hidden_states=self.keep_hidden,
            logits_to_keep=last[:, None],
        )
        layers = [(keys, values) for keys, values, *_ in output.past_key_values]
        return [
            PromptCache(
                keys=tuple(keys[row, :, :length].clone() for keys, _ in layers),
                values=tuple(values[row, :, :length].clone() for _, values in layers),
                logits=output.logits[row, 0].to(torch.float32, copy=True),
                hidden=output.hidden_states[-1][row, length - 1].clone()
                if self.keep_hidden
                else None,
            )
            for row, length in enumerate(lengths.tolist())
        ]

    @torch.inference_mode()
    def run(self, waiting: deque[Job]) -> None:
        """Write all jobs, in batches that are refilled in the order given.

        Args:
            waiting: jobs, those of one prompt next to each other; taken out one by one, so
                that a prompt's keys and values are let go with its last job.
        """
        self._run(waiting, self.max_rows)

    def _run(self, waiting: deque[Job], max_rows: int) -> None:
        num_rows = min(max_rows, len(waiting))
        max_tokens = max((job.max_tokens for job in waiting), default=0)
        rows = _Rows(num_rows, max_tokens, RowCache(num_rows, self.model.device))
        while waiting or rows.jobs:
            refill = not rows.jobs or rows.num_free * REFILL_SHARE >= num_rows
            try:
                if waiting and refill:
                    self._admit(waiting, rows)
                else:
                    self._write(rows, 0, self._next_logits(rows))
            except MODEL_ERRORS as error:
                self._recover(rows, error)

    def _admit(self, waiting: deque[Job], rows: _Rows) -> None:
        """Fill the free rows with jobs and write their first tokens."""
        jobs = [waiting.popleft() for _ in range(min(rows.num_free, len(waiting)))]
        self.prefill([job.prompt for job in jobs])
        first, ready = len(rows.jobs), []
        for job in jobs:
            job.generation.prefill_tokens += job.prompt.bill()
            if job.prompt.cache is None:
                job.generation.error = job.prompt.error
            else:
                ready.append((job, job.prompt.cache))
        if ready:
            rows.load(ready)
            self._write(rows, first, torch.stack([cache.logits for _, cache in ready]))

    def _next_logits(self, rows: _Rows) -> torch.Tensor:
        """Logits of every row's next token, (N, V)."""
        mask, positions = rows.cache.begin_step()
        output = self.model(
            input_ids=rows.last_tokens(),
            attention_mask=mask,
            position_ids=positions,
            past_key_values=rows.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        rows.cache.end_step()
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def _write(self, rows: _Rows, first: int, logits: torch.Tensor) -> None:
        """Sample a token in the rows from `first` on, and let go of those that end.

        Args:
            rows: the jobs being written.
            first: row of the first of the logits.
            logits: (K, V), K rows from `first` to the last.
        """
        tokens, logprobs = rows.write(first, logits, self.temperature)
        broken = ~logprobs.isfinite()  # (K,)
        full = rows.written[first : len(rows.jobs)] >= rows.limits[first : len(rows.jobs)]
        ended = (broken | full | torch.isin(tokens, self.end_tokens)).nonzero()[:, 0]
        if not len(ended):
            return
        for row, failed in zip((ended + first).tolist(), broken[ended].tolist(), strict=True):
            rows.finish(row, NOT_FINITE if failed else None)
        rows.cache.blank(broken.nonzero()[:, 0] + first)
        rows.remove(ended + first)

    def _recover(self, rows: _Rows, error: Exception) -> None:
        """Write the jobs of a batch that failed one by one, to find the one to blame."""
        jobs = list(rows.jobs)
        if len(jobs) == 1:
            rows.finish(0, f"decoding: {error}")
        for row, job in enumerate(jobs):
            job.generation.cancelled_tokens += int(rows.written[row]) if len(jobs) > 1 else 0
        rows.clear()
        for job in jobs if len(jobs) > 1 else ():
            self._run(deque([job]), max_rows=1)


def _prefill_batches(prompts: Sequence[Prompt]) -> Iterator[list[Prompt]]:
    """Cut prompts, by length, into batches with little padding."""
    batch: list[Prompt] = []
    for prompt in sorted(prompts, key=lambda p: len(p.tokens)):
        length = len(prompt.tokens)
        if batch and (
            length > MAX_PADDING_RATIO * len(batch[0].tokens)
            or length * (len(batch) + 1) > MAX_PREFILL_TOKENS
        ):
            yield batch
            batch = []
        batch.append(prompt)
    if batch:
        yield batch
