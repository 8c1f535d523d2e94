"""Keys and values of many attempts that are being written side by side.

Every row is kept from column 0 on, so where a token stands, and with it its arithmetic,
does not depend on the neighbours; padding on the left would shift it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

KeysValues = tuple[tuple[torch.Tensor, torch.Tensor], ...]
"""Keys and values of L tokens, one pair per layer, each (heads, L, head size)."""


@dataclass(frozen=True, eq=False)
class PromptCache:
    """What a model remembers of a prompt of L tokens.

    Attributes:
        keys: one tensor per layer, each (heads, L, head size).
        values: likewise.
        logits: of the token that follows, (V,) float32.
        hidden: last hidden state at the prompt's last token, (H,) float32; None unless asked
            for.
    """

    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]
    logits: torch.Tensor
    hidden: torch.Tensor | None

    @property
    def num_tokens(self) -> int:
        """Length of the prompt."""
        return self.keys[0].shape[1]


@dataclass(frozen=True, eq=False)
class RowBlock:
    """Some rows, taken out of a `RowCache`; L is the length of the longest.

    Attributes:
        keys: one tensor per layer, each (K, heads, L, head size).
        values: likewise.
        lengths: tokens of each row, (K,).
    """

    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]
    lengths: torch.Tensor

    def __getitem__(self, rows: slice) -> RowBlock:
        """A part of the rows, sharing memory."""
        return RowBlock(
            tuple(keys[rows] for keys in self.keys),
            tuple(values[rows] for values in self.values),
            self.lengths[rows],
        )


class RowCache(Cache):  # type: ignore[misc]
    """A `transformers` cache whose rows come, grow by one token a step, and go.

    Attention sees all `width` columns, masked beyond each row's end: on a CPU, reading one
    contiguous block is worth more than leaving out some of its columns.

    Args:
        max_rows: most rows at a time.
        device: of the model.
    """

    def __init__(self, max_rows: int, device: torch.device) -> None:
        self.num_rows, self.width, self.num_active = max_rows, 0, 0
        self.lengths = torch.zeros(max_rows, dtype=torch.long, device=device)  # (R,)
        self.indices = torch.arange(max_rows, device=device)  # (R,)
        self._stacks: list[_RowLayer] = []
        self._cells: dict[int, torch.Tensor] = {}
        super().__init__(layers=[])

    def start(self, num_rows: int, width: int) -> None:
        """Drop all rows and have room for R rows and W columns from now on."""
        self.num_rows, self.width, self.num_active = num_rows, width, 0
        for stack in self._stacks:
            stack.start()

    def clear(self) -> None:
        """Drop all rows and their memory."""
        self.num_active = 0
        self._stacks = []
        self.layers = list(self._stacks)

    def load(self, prompts: Sequence[PromptCache]) -> None:
        """Append one row per prompt; runs of the same prompt are copied in one go."""
        for _, run in groupby(prompts, key=id):
            same = list(run)
            lengths = torch.full((len(same),), same[0].num_tokens, device=self.lengths.device)
            self.put(
                RowBlock(
                    tuple(keys.expand(len(same), *keys.shape) for keys in same[0].keys),
                    tuple(values.expand(len(same), *values.shape) for values in same[0].values),
                    lengths,
                )
            )

    def put(self, block: RowBlock) -> None:
        """Append rows; none may be longer than `width`."""
        if not self._stacks:
            pairs = zip(block.keys, block.values, strict=True)
            self._stacks = [_RowLayer(self, *pair) for pair in pairs]
            self.layers = list(self._stacks)
        rows = slice(self.num_active, self.num_active + len(block.lengths))
        for stack, keys, values in zip(self._stacks, block.keys, block.values, strict=True):
            stack.keys[rows, :, : keys.shape[2]] = keys
            stack.values[rows, :, : values.shape[2]] = values
        self.lengths[rows] = block.lengths
        self.num_active = rows.stop

    def take(self, rows: torch.Tensor) -> RowBlock:
        """A copy of rows (K,)."""
        length = int(self.lengths[rows].max())
        return RowBlock(
            tuple(x.keys[:, :, :length].index_select(0, x.local(rows)) for x in self._stacks),
            tuple(x.values[:, :, :length].index_select(0, x.local(rows)) for x in self._stacks),
            self.lengths[rows],
        )

    def columns(self, row: int, begin: int, end: int) -> KeysValues:
        """A copy of the tokens from `begin` to before `end` of one row."""
        return tuple(
            (x.keys[row, :, begin:end].clone(), x.values[row, :, begin:end].clone())
            for x in self._stacks
        )

    def move(self, sources: torch.Tensor, targets: torch.Tensor, num_active: int) -> None:
        """Overwrite rows `targets` by rows `sources`, both (K,), and keep `num_active` rows."""
        if len(sources):
            block = self.take(sources)
            for stack, keys, values in zip(self._stacks, block.keys, block.values, strict=True):
                places = stack.local(targets)
                stack.keys[:, :, : keys.shape[2]].index_copy_(0, places, keys)
                stack.values[:, :, : values.shape[2]].index_copy_(0, places, values)
            self.lengths[targets] = block.lengths
        self.num_active = num_active

    def blank(self, rows: torch.Tensor) -> None:
        """Zero rows (K,): a NaN left in masked columns would spread to the next tenant."""
        for stack in self._stacks:
            stack.keys[stack.local(rows)] = 0
            stack.values[stack.local(rows)] = 0

    def begin_step(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What a forward pass of one token per row needs beside the tokens.

        Returns:
            attention mask (N, W) and positions of the new tokens (N, 1), for N active rows,
            all of them shorter than W.
        """
        self._cells.clear()
        lengths = self.lengths[: self.num_active, None]  # (N, 1)
        columns = torch.arange(self.width, device=lengths.device)  # (W,)
        return columns <= lengths, lengths.clone()

    def cells(self, num_heads: int) -> torch.Tensor:
        """Where the new tokens go in (R, heads, W) counted through, (N * heads,)."""
        if num_heads not in self._cells:
            heads = torch.arange(num_heads, device=self.indices.device)  # (heads,)
            stripes = self.indices[: self.num_active, None] * num_heads + heads  # (N, heads)
            cells = stripes * self.width + self.lengths[: self.num_active, None]  # (N, heads)
            self._cells[num_heads] = cells.flatten()
        return self._cells[num_heads]

    def end_step(self) -> None:
        """Count the token that the forward pass has added to each row."""
        self.lengths[: self.num_active] += 1


class _RowLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's keys and values, each (R, heads, W, head size).

    Adding a token copies that token alone, where a `DynamicLayer` copies all of them.

    Args:
        cache: that it belongs to.
        keys: of some rows, (K, heads, L, head size), for their shape.
        values: likewise.
    """

    is_sliding = False
    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, cache: RowCache, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.cache = cache
        self._memory = keys.new_empty(0), values.new_empty(0)
        self._shapes = tuple((x.shape[1], x.shape[3]) for x in (keys, values))
        self.start()
        self.is_initialized = True

    def local(self, places: torch.Tensor) -> torch.Tensor:
        """Indices where this layer is: layers of a large model lie on several devices."""
        return places.to(self.keys.device)

    def start(self) -> None:
        """Take the cache's new shape, whatever is in it; memory is used again if it suffices."""
        rows, width = self.cache.num_rows, self.cache.width
        sizes = [rows * heads * width * size for heads, size in self._shapes]
        if any(len(x) < size for x, size in zip(self._memory, sizes, strict=True)):
            # Zeros, as a masked column meets an attention weight of 0, and 0 * NaN is NaN.
            keys, values = self._memory
            self._memory = keys.new_zeros(sizes[0]), values.new_zeros(sizes[1])
        self.keys, self.values = (
            x[:size].view(rows, heads, width, -1)
            for x, size, (heads, _) in zip(self._memory, sizes, self._shapes, strict=True)
        )

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Part of the interface; a row layer is made whole."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add one token per row, each (N, heads, 1, head size); return all, (N, heads, W, ...)."""
        for memory, new in ((self.keys, key_states), (self.values, value_states)):
            size = new.shape[-1]
            cells = self.local(self.cache.cells(new.shape[1]))
            memory.view(-1, size).index_copy_(0, cells, new.reshape(-1, size))
        return self.keys[: self.cache.num_active], self.values[: self.cache.num_active]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Number of columns, and the first of them."""
        return self.cache.width, 0

    def get_seq_length(self) -> int:
        """Columns but the last, so that the causal mask hides none; `begin_step`'s mask does."""
        return max(self.cache.width - 1, 0)

    def get_max_length(self) -> int:
        """No maximum."""
        return -1
