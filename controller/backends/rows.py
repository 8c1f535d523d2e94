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

SPARE_COLUMNS = 128


@dataclass(frozen=True, eq=False)
class PromptCache:
    """What a model remembers of a prompt of L tokens.

    Attributes:
        keys: one tensor per layer, each (heads, L, head size).
        values: likewise.
        logits: of the token that follows, (V,) float32.
        hidden: last hidden state at the prompt's last token, (H,); None unless asked for.
    """

    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]
    logits: torch.Tensor
    hidden: torch.Tensor | None

    @property
    def num_tokens(self) -> int:
        """Length of the prompt."""
        return self.keys[0].shape[1]


class RowCache(Cache):  # type: ignore[misc]
    """A `transformers` cache whose rows come, grow by one token a step, and go.

    Args:
        num_rows: most rows at a time, R.
        device: of the model.
    """

    def __init__(self, num_rows: int, device: torch.device) -> None:
        self.num_rows, self.num_active, self.width = num_rows, 0, 0
        self.lengths = torch.zeros(num_rows, dtype=torch.long, device=device)  # (R,)
        self.indices = torch.arange(num_rows, device=device)  # (R,)
        super().__init__(layers=[])

    def load(self, prompts: Sequence[PromptCache]) -> None:
        """Append one row per prompt; runs of the same prompt are copied in one go."""
        if prompts and not self.layers:
            self.layers = [_RowLayer(self) for _ in prompts[0].keys]
        for _, run in groupby(prompts, key=id):
            same = list(run)
            first, last = self.num_active, self.num_active + len(same)
            for layer, keys, values in zip(self.layers, same[0].keys, same[0].values, strict=True):
                layer.load(first, last, keys, values)
            self.lengths[first:last] = same[0].num_tokens
            self.num_active = last

    def clear(self) -> None:
        """Drop all rows and their memory."""
        self.num_active, self.layers = 0, []

    def begin_step(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Make room for one token per row.

        Returns:
            attention mask (N, W) and positions of the new tokens (N, 1), N rows being active
            and W being one more than the longest of them.
        """
        lengths = self.lengths[: self.num_active, None]  # (N, 1)
        self.width = int(lengths.max()) + 1
        columns = torch.arange(self.width, device=lengths.device)  # (W,)
        return (columns <= lengths).long(), lengths.clone()

    def end_step(self) -> None:
        """Count the token that the forward pass has added to each row."""
        self.lengths[: self.num_active] += 1

    def move(self, sources: torch.Tensor, targets: torch.Tensor, num_active: int) -> None:
        """Overwrite rows `targets` by rows `sources`, both (K,), and keep `num_active` rows."""
        if len(sources):
            width = int(self.lengths[sources].max())
            for layer in self.layers:
                layer.keys[targets, :, :width] = layer.keys[sources, :, :width]
                layer.values[targets, :, :width] = layer.values[sources, :, :width]
            self.lengths[targets] = self.lengths[sources]
        self.num_active = num_active

    def blank(self, rows: torch.Tensor) -> None:
        """Zero rows (K,): a NaN left in masked columns would spread to the next tenant."""
        for layer in self.layers:
            layer.keys[rows] = 0
            layer.values[rows] = 0


class _RowLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's keys and values, each (R, heads, capacity, head size).

    Adding a token copies that token alone, where a `DynamicLayer` copies all of them.
    """

    is_sliding = False

    def __init__(self, cache: RowCache) -> None:
        super().__init__()
        self.cache = cache
        self.capacity = self.clean = 0

    def load(self, first: int, last: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put a prompt's keys and values, each (heads, L, head size), into some rows."""
        length = keys.shape[1]
        self.reserve(length, keys, values)
        self.keys[first:last, :, :length] = keys
        self.values[first:last, :, :length] = values

    def reserve(self, width: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Make at least `width` columns usable, in the shape of (..., heads, L, head size)."""
        if width > self.capacity:
            self.capacity = width + max(SPARE_COLUMNS, width // 2)
            self.keys = self._widened(self.keys, keys)
            self.values = self._widened(self.values, values)
            self.is_initialized = True
        if width > self.clean:
            # What lies beyond a row's end meets an attention weight of 0, but 0 * NaN is NaN.
            self.keys[:, :, self.clean : width] = 0
            self.values[:, :, self.clean : width] = 0
            self.clean = width

    def _widened(self, old: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
        new = like.new_empty(self.cache.num_rows, like.shape[-3], self.capacity, like.shape[-1])
        if old is not None:
            new[:, :, : self.clean] = old[:, :, : self.clean]
        return new

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Part of the interface; `load` comes first, so there is nothing left to do."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add one token per row, each (N, heads, 1, head size); return all, (N, heads, W, ...)."""
        active, width = self.cache.num_active, self.cache.width
        self.reserve(width, key_states, value_states)
        rows, columns = self.cache.indices[:active], self.cache.lengths[:active]
        self.keys[rows, :, columns] = key_states[:, :, 0]
        self.values[rows, :, columns] = value_states[:, :, 0]
        return self.keys[:active, :, :width], self.values[:active, :, :width]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Number of columns, and the first of them."""
        return self.cache.width, 0

    def get_seq_length(self) -> int:
        """Columns before the new token in the longest row; shorter rows are masked."""
        return max(self.cache.width - 1, 0)

    def get_max_length(self) -> int:
        """No maximum."""
        return -1
