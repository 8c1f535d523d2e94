"""Many attempts written at once by one local model.

Each prompt is pre-filled once. A row that ends gives its place to the last row, and free
places go to waiting jobs, so only rows that are still being written go through the model.
The last token of an attempt is never fed back: writing n tokens takes n - 1 forward passes
after the prompt's.

Attention costs as much as the longest row of a batch, so jobs are written in stages: all up
to 32 tokens of prompt and attempt together, then those that are not done up to 64, and so
on, each stage in full batches. It also means that a token's arithmetic has the same shape
whatever the other rows are, but for their number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from controller.backends.local.jobs import UNWANTED, Job, Prompt, RunningBatch, WaitingByWidth
from controller.backends.local.kv import (
    MODEL_ERRORS,
    NOT_FINITE,
    KVBatch,
    Piece,
    batches_by_length,
    forward,
    read_batch,
)
from controller.backends.local.model import pack_linears

STAGE_COLUMNS = 32
"""Columns by which the first stages differ; later ones grow by a quarter."""
FULL_BATCHES = 2
"""A stage is run when its jobs make up so many batches."""
REFILL_SHARE = 8
"""Jobs are let in when this fraction (1 / REFILL_SHARE) of the rows is free."""
SPARSE_SHARE = 2
"""A stage is left with less than this fraction (1 / SPARSE_SHARE) of the rows in use."""


class Decoder:
    """Pre-fills prompts and writes attempts.

    Args:
        model: a causal language model with plain key/value caches; its large linear layers are
            packed in place, unless it is compiled.

    Attributes:
        cache: of the rows that are written now, or were last.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        end_tokens: Collection[int],
        *,
        max_rows: int = 256,
        keep_hidden: bool = False,
    ) -> None:
        self.model, self.max_rows, self.keep_hidden = model, max_rows, keep_hidden
        if getattr(model, "_compiled_call_impl", None) is None:
            pack_linears(model)
        self.cache = KVBatch(0, model.device)
        self.end_tokens = torch.tensor(sorted(end_tokens), device=model.device)  # (E,)
        # Models that take any attention kernel take a finished mask, too; others (ALiBi) read
        # positions off the mask and need it as it is.
        self._finished_mask = bool(getattr(model, "_supports_attention_backend", False)) and (
            model.config._attn_implementation in ("eager", "sdpa")
        )

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Prompt]) -> None:
        """Fill in `cache`, or `error`, of those prompts that have neither."""
        missing = [p for p in dict.fromkeys(prompts) if p.cache is None and p.error is None]
        for batch in batches_by_length([len(prompt.tokens) for prompt in missing]):
            self._prefill_batch([missing[i] for i in batch])

    def _prefill_batch(self, batch: list[Prompt]) -> None:
        pieces = [Piece(p.fresh, p.before, adapter=p.adapter) for p in batch]
        try:
            caches = read_batch(self.model, pieces, keep_hidden=self.keep_hidden)
        except MODEL_ERRORS as error:
            if len(batch) == 1:
                batch[0].error = f"prefill: {error}"
                return
            for prompt in batch:
                self._prefill_batch([prompt])
            return
        for prompt, cache in zip(batch, caches, strict=True):
            prompt.unbilled_tokens += len(prompt.fresh)
            if cache.is_finite:
                prompt.cache = cache.whole()
            else:
                prompt.error = NOT_FINITE

    @torch.inference_mode()
    def run(self, fresh: deque[Job]) -> None:
        """Write all jobs, in batches that are refilled in the order given.

        Those of one prompt are next to each other, and taken out one by one, so that a prompt's
        keys and values are let go with its last job.
        """
        max_rows = min(self.max_rows, len(fresh))
        max_tokens = max((job.max_tokens for job in fresh), default=0)
        rows = RunningBatch(max_rows, max_tokens, KVBatch(max_rows, self.model.device))
        self.cache = rows.cache
        waiting = WaitingByWidth()
        while fresh or waiting.counts():
            counts = waiting.counts()
            num_rows = min(max_rows, len(fresh) + sum(counts.values()))
            try:
                rows.cache.start(num_rows, _next_width(fresh, counts, num_rows))
                self._run_stage(rows, fresh, waiting)
            except MODEL_ERRORS as error:
                self._recover(rows, error)

    def _run_stage(self, rows: RunningBatch, fresh: deque[Job], waiting: WaitingByWidth) -> None:
        """Write with as many columns as `rows.cache` has, while there are enough jobs for it.

        Jobs that outgrow the columns are paused. So are all of them when the next stage has
        its jobs together, or when too few are left to be worth a batch of their own: until
        fresh jobs make up for it, or else to go on with the next stage's.
        """
        num_rows, width = rows.cache.num_rows, rows.cache.width
        wider = stage_width(width)
        while True:
            if rows.num_free * REFILL_SHARE >= num_rows:
                self._refill(rows, fresh, waiting)
            if not rows.jobs:
                return
            crowded = waiting.count(wider) >= FULL_BATCHES * num_rows
            sparse = len(rows.jobs) * SPARSE_SHARE < num_rows
            if crowded or (sparse and (fresh or waiting.counts())):
                everyone = rows.cache.indices[: len(rows.jobs)]
                waiting.add(width if crowded or fresh else wider, rows.pause(everyone))
                return
            self._write(rows, 0, self._next_logits(rows))
            if not fresh and not waiting.counts() and len(rows.jobs) * 2 <= rows.cache.num_rows:
                rows.cache.shrink()
            outgrown = (rows.cache.lengths[: len(rows.jobs)] >= width).nonzero()[:, 0]
            if len(outgrown):
                waiting.add(wider, rows.pause(outgrown))

    def _refill(self, rows: RunningBatch, fresh: deque[Job], waiting: WaitingByWidth) -> None:
        """Fill the free rows with paused jobs, then with fresh ones that start in this stage."""
        width = rows.cache.width
        while rows.num_free and waiting.count(width):
            rows.resume(waiting.take(width, rows.num_free))
        jobs: list[Job] = []
        while (
            fresh
            and len(jobs) < rows.num_free
            and stage_width(len(fresh[0].prompt.tokens)) == width
        ):
            jobs.append(fresh.popleft())
        if jobs:
            self._admit(jobs, rows)

    def _admit(self, jobs: list[Job], rows: RunningBatch) -> None:
        """Give fresh jobs that are still wanted a row each and write their first tokens."""
        for job in jobs:
            job.generation.error = None if job.is_wanted else UNWANTED
        jobs = [job for job in jobs if job.generation.error is None]
        self.prefill([job.prompt for job in jobs])
        first, ready = len(rows.jobs), []
        for job in jobs:
            job.generation.prefill_tokens += job.prompt.bill()
            if job.prompt.cache is None:
                job.generation.error = job.prompt.error
            else:
                job.generation.cached_tokens = (
                    len(job.prompt.tokens) - job.generation.prefill_tokens
                )
                ready.append((job, job.prompt.cache))
        if ready:
            rows.load(ready)
            self._write(rows, first, torch.stack([cache.logits for _, cache in ready]))

    def _next_logits(self, rows: RunningBatch) -> Tensor:
        """Logits of every row's next token, (N, V)."""
        mask, positions = rows.cache.begin_step()
        if self._finished_mask:  # as attention adds it to its scores, once for all layers
            scores = torch.zeros(mask.shape, dtype=self.model.dtype, device=mask.device)
            mask = scores.masked_fill_(~mask, -torch.inf)[:, None, None]  # (N, 1, 1, W)
        output = forward(
            self.model,
            [job.prompt.adapter for job in rows.jobs],
            input_ids=rows.last_tokens(),
            attention_mask=mask,
            position_ids=positions,
            cache=rows.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        rows.cache.end_step()
        return output.logits[:, -1]

    def _write(self, rows: RunningBatch, first: int, logits: Tensor) -> None:
        """Sample a token in the rows from `first` on, and let go of those that end."""
        tokens, logprobs = rows.write(first, logits)
        broken = ~logprobs.isfinite()  # (K,)
        for row, job in enumerate(rows.jobs[first:]):
            if job.on_token is not None:
                place = int(rows.written[row + first]) - 1
                job.on_token(place, int(tokens[row]), float(logprobs[row]))
        full = rows.written[first : len(rows.jobs)] >= rows.limits[first : len(rows.jobs)]
        unwanted = [not job.is_wanted for job in rows.jobs[first:]]
        done = broken | full | torch.isin(tokens, self.end_tokens)  # (K,)
        if any(unwanted):
            done |= torch.tensor(unwanted, device=done.device)
        ended = done.nonzero()[:, 0]
        if not len(ended):
            return
        for row, failed in zip(ended.tolist(), broken[ended].tolist(), strict=True):
            dropped = UNWANTED if unwanted[row] else None
            rows.finish(row + first, NOT_FINITE if failed else dropped)
        rows.cache.blank(broken.nonzero()[:, 0] + first)
        rows.remove(ended + first)

    def _recover(self, rows: RunningBatch, error: Exception) -> None:
        """Write the jobs of a batch that failed one by one, to find the one to blame."""
        jobs = list(rows.jobs)
        if not jobs:
            raise error
        if len(jobs) == 1:
            rows.finish(0, f"decoding: {error}")
        for row, job in enumerate(jobs):
            job.generation.cancelled_tokens += int(rows.written[row]) if len(jobs) > 1 else 0
        rows.clear()
        for job in jobs if len(jobs) > 1 else ():
            self.run(deque([job]))


def stage_width(length: int) -> int:
    """Columns of the first stage that has room for another token after `length` of them.

    >>> [stage_width(length) for length in (0, 31, 32, 200)]
    [32, 32, 64, 250]
    """
    width = STAGE_COLUMNS
    while width <= length:
        width += max(STAGE_COLUMNS, width // 4)
    return width


def _next_width(fresh: deque[Job], waiting: Mapping[int, int], num_rows: int) -> int:
    """Columns of the stage to run: the widest that has its jobs, or fresh jobs, or the rest."""
    full = [width for width, count in waiting.items() if count >= FULL_BATCHES * num_rows]
    if full:
        return full[-1]
    return stage_width(len(fresh[0].prompt.tokens)) if fresh else min(waiting)
