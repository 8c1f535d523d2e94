"""Forward passes, and the keys and values of what was read and is written side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin

from controller.errors import BackendError

BASE = "__base__"
"""What peft calls the model without an adapter."""
MAX_TOKENS = 8192
"""Tokens, with padding, that go through a model at once."""
MAX_PADDING_RATIO = 1.25
"""Longest sequence of a batch relative to its shortest."""

KeysValues = tuple[tuple[Tensor, Tensor], ...]
"""Keys and values of L tokens, one pair per layer, each (heads, L, head size)."""

MODEL_ERRORS = (RuntimeError, ValueError, IndexError)
"""What a forward pass raises when it fails; running out of memory is a RuntimeError."""
NOT_FINITE = "logits: expected finite numbers, found NaN or infinity"


def forward(model: Any, adapters: Sequence[str], **inputs: Any) -> Any:
    """One forward pass, each row through its own adapter."""
    if not getattr(model, "peft_config", None):
        return model(**inputs)
    first, *others = dict.fromkeys(adapters)
    if others or first == BASE:
        return model(**inputs, adapter_names=list(adapters))
    # For rows of one adapter peft copies none.
    if model.active_adapters != [first]:
        model.set_adapter(first, inference_mode=True)
    return model(**inputs)


def batches_by_length(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Cut sequences into batches of about equal lengths; yields their positions."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and (
            lengths[i] > MAX_PADDING_RATIO * lengths[batch[0]]
            or lengths[i] * (len(batch) + 1) > MAX_TOKENS
        ):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def padded(
    texts: Sequence[tuple[int, ...]], device: torch.device
) -> tuple[dict[str, Tensor], Tensor]:
    """Inputs of a forward pass over B sequences, padded on the right, and their lengths (B,)."""
    lengths = torch.tensor([len(tokens) for tokens in texts])  # (B,)
    columns = torch.arange(int(lengths.max()))  # (L,)
    mask = (columns < lengths[:, None]).long()  # (B, L)
    ids = torch.zeros_like(mask)  # (B, L)
    for row, tokens in enumerate(texts):
        ids[row, : len(tokens)] = torch.tensor(tokens)
    positions = columns.expand_as(ids)  # (B, L)
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    return {name: tensor.to(device) for name, tensor in inputs.items()}, lengths.to(device)


@dataclass(frozen=True, eq=False)
class KVPrefix:
    """What one model remembers of some text.

    It holds its own tokens alone and points at what came before, so that a tree of texts is kept
    once, and dropping the end of a text leaves the rest as it is.

    Attributes:
        tokens: the last of the text, those that are kept here; at least one.
        layers: their keys and values.
        before: of all earlier tokens; None if there are none.
        logits: of the token that follows, (V,) float32.
        hidden: last hidden state at the last token, (H,) float32; None unless asked for.
    """

    tokens: tuple[int, ...]
    layers: KeysValues
    before: KVPrefix | None
    logits: Tensor
    hidden: Tensor | None

    @property
    def num_tokens(self) -> int:
        """Length of the whole text."""
        return sum(len(part.tokens) for part in self.parts())

    @property
    def is_finite(self) -> bool:
        """Whether the model made numbers of the text."""
        return bool(self.logits.logsumexp(-1).isfinite())

    def parts(self) -> list[KVPrefix]:
        """This one and those before it, the first one first."""
        found: list[KVPrefix] = []
        part: KVPrefix | None = self
        while part is not None:
            found.append(part)
            part = part.before
        return found[::-1]

    def whole(self) -> KVPrefix:
        """The whole text in one piece."""
        parts = self.parts()
        if len(parts) == 1:
            return self
        tokens = tuple(token for part in parts for token in part.tokens)
        layers = _joined([part.layers for part in parts])
        return KVPrefix(tokens, layers, None, self.logits, self.hidden)

    def longer(self, written: Sequence[int], layers: KeysValues, last: KVPrefix) -> KVPrefix:
        """With further tokens: `layers` of all but the last of them, `last` of that one."""
        joined = _joined([layers, last.layers])
        return KVPrefix(tuple(written), joined, self, last.logits, last.hidden)


def _joined(parts: Sequence[KeysValues]) -> KeysValues:
    """Keys and values of texts that follow one another."""
    return tuple(
        (torch.cat([keys for keys, _ in pairs], 1), torch.cat([values for _, values in pairs], 1))
        for pairs in zip(*parts, strict=True)
    )


@dataclass(frozen=True, eq=False)
class Piece:
    """Tokens for a model to read, one at least, after the text before them.

    `unfinished` has keys and values of tokens between the two, without a prefix of their own.
    """

    tokens: tuple[int, ...]
    before: KVPrefix | None = None
    unfinished: KeysValues | None = None
    adapter: str = BASE

    def past(self) -> list[KeysValues]:
        """Keys and values of everything before the tokens, part by part."""
        parts = [part.layers for part in self.before.parts()] if self.before else []
        return parts if self.unfinished is None else [*parts, self.unfinished]

    @property
    def past_tokens(self) -> int:
        """How many tokens that is."""
        return sum(layers[0][0].shape[1] for layers in self.past())


@torch.inference_mode()
def read_pieces(model: Any, pieces: Sequence[Piece]) -> list[KVPrefix]:
    """Let a model read pieces of text, each after its own past.

    Raises:
        BackendError: the model fails, or its logits are not finite.
    """
    prefixes: dict[int, KVPrefix] = {}
    for batch in batches_by_length([piece.past_tokens + len(piece.tokens) for piece in pieces]):
        try:
            found = read_batch(model, [pieces[i] for i in batch])
        except MODEL_ERRORS as error:
            raise BackendError(f"reading {len(batch)} texts: {error}") from error
        if not all(prefix.is_finite for prefix in found):
            raise BackendError(NOT_FINITE)
        prefixes.update(zip(batch, found, strict=True))
    return [prefixes[i] for i in range(len(pieces))]


def read_batch(model: Any, pieces: Sequence[Piece], *, keep_hidden: bool = True) -> list[KVPrefix]:
    """The same in one forward pass over B pieces, whatever comes of it."""
    pasts = [piece.past_tokens for piece in pieces]
    inputs, counts = padded([piece.tokens for piece in pieces], model.device)
    past = torch.tensor(pasts, device=model.device)[:, None]  # (B, 1)
    columns = torch.arange(max(pasts), device=model.device)  # (P,)
    output = forward(
        model,
        [piece.adapter for piece in pieces],
        input_ids=inputs["input_ids"],
        attention_mask=torch.cat(((columns < past).long(), inputs["attention_mask"]), 1),
        position_ids=inputs["position_ids"] + past,
        cache=_past_cache(pieces, max(pasts)),
        use_cache=True,
        output_hidden_states=keep_hidden,
        logits_to_keep=(counts - 1)[:, None],
    )
    layers = [(keys, values) for keys, values, *_ in output.cache]
    prefixes = []
    for row, (piece, count) in enumerate(zip(pieces, counts.tolist(), strict=True)):
        own = slice(max(pasts), max(pasts) + count)
        hidden = output.hidden_states[-1][row, count - 1] if keep_hidden else None
        prefixes.append(
            KVPrefix(
                tokens=piece.tokens,
                layers=tuple((k[row, :, own].clone(), v[row, :, own].clone()) for k, v in layers),
                before=piece.before,
                logits=output.logits[row, 0].to(torch.float32, copy=True),
                hidden=None if hidden is None else hidden.to(torch.float32, copy=True),
            )
        )
    return prefixes


def _past_cache(pieces: Sequence[Piece], longest: int) -> DynamicCache:
    """Everything before the pieces, padded on the right to one length."""
    cache = DynamicCache()
    parts = [piece.past() for piece in pieces]
    some = next((part for past in parts for part in past), ())
    for layer, pair in enumerate(some):
        keys, values = (x.new_zeros(len(pieces), x.shape[0], longest, x.shape[2]) for x in pair)
        for row, past in enumerate(parts):
            begin = 0
            for part in past:
                end = begin + part[layer][0].shape[1]
                keys[row, :, begin:end], values[row, :, begin:end] = part[layer]
                begin = end
        cache.update(keys, values, layer)
    return cache


class KVBatch(Cache):  # type: ignore[misc]
    """A `transformers` cache whose rows come, grow by one token a step, and go.

    Every row is kept from column 0 on, so where a token stands, and with it its arithmetic, does
    not depend on the neighbours; padding on the left would shift it. Attention sees all `width`
    columns, masked beyond each row's end: on a CPU, reading one contiguous block is worth more
    than leaving out some of its columns.
    """

    def __init__(self, max_rows: int, device: torch.device) -> None:
        self.num_rows, self.width, self.num_active = max_rows, 0, 0
        self.lengths = torch.zeros(max_rows, dtype=torch.long, device=device)  # (R,)
        self.indices = torch.arange(max_rows, device=device)  # (R,)
        self._cells: dict[int, Tensor] = {}
        self.layers: list[KVLayer] = []
        super().__init__(layers=[])

    @property
    def _tensors(self) -> list[Tensor]:
        """Keys and values of all layers, (R, heads, W, head size) each."""
        return [x for layer in self.layers for x in (layer.keys, layer.values)]

    def start(self, num_rows: int, width: int) -> None:
        """Drop all rows and have room for R rows and W columns from now on."""
        self.num_rows, self.width, self.num_active = num_rows, width, 0
        for layer in self.layers:
            layer.start()

    def clear(self) -> None:
        """Drop all rows and their memory."""
        self.num_active, self.layers = 0, []

    def shrink(self) -> None:
        """Let go of the memory of rows that are not active."""
        self.num_rows = self.num_active
        if not self.num_rows:
            self.clear()
        for layer in self.layers:
            layer.start(keep=True)

    def load(self, prefixes: Sequence[KVPrefix]) -> None:
        """Append one row per text in one piece; runs of the same one are copied in one go."""
        for _, run in groupby(prefixes, key=id):
            same = list(run)
            lengths = torch.full((len(same),), len(same[0].tokens), device=self.lengths.device)
            tensors = (x for pair in same[0].layers for x in pair)
            self.put((lengths, *(x.expand(len(same), *x.shape) for x in tensors)))

    def put(self, rows: Sequence[Tensor]) -> None:
        """Append K rows, none longer than `width`.

        Rows are their lengths (K,), then keys and values layer by layer, (K, heads, L, head size)
        each, L being the length of the longest.
        """
        lengths, *tensors = rows
        if not self.layers:
            pairs = zip(tensors[::2], tensors[1::2], strict=True)
            self.layers = [KVLayer(self, *pair) for pair in pairs]
        places = slice(self.num_active, self.num_active + len(lengths))
        for mine, theirs in zip(self._tensors, tensors, strict=True):
            mine[places, :, : theirs.shape[2]] = theirs
        self.lengths[places] = lengths
        self.num_active = places.stop

    def take(self, rows: Tensor) -> tuple[Tensor, ...]:
        """A copy of rows (K,), as `put` takes them."""
        length = int(self.lengths[rows].max())
        copies = (x[:, :, :length].index_select(0, rows.to(x.device)) for x in self._tensors)
        return self.lengths[rows], *copies

    def columns(self, row: int, begin: int, end: int) -> KeysValues:
        """A copy of the tokens from `begin` to before `end` of one row."""
        return tuple(
            (x.keys[row, :, begin:end].clone(), x.values[row, :, begin:end].clone())
            for x in self.layers
        )

    def move(self, sources: Tensor, targets: Tensor, num_active: int) -> None:
        """Overwrite rows `targets` by rows `sources`, both (K,), and keep `num_active` rows."""
        if len(sources):
            lengths, *tensors = self.take(sources)
            for mine, theirs in zip(self._tensors, tensors, strict=True):
                mine[:, :, : theirs.shape[2]].index_copy_(0, targets.to(mine.device), theirs)
            self.lengths[targets] = lengths
        self.num_active = num_active

    def blank(self, rows: Tensor) -> None:
        """Zero rows (K,): a NaN left in masked columns would spread to the next tenant."""
        for x in self._tensors:
            x[rows.to(x.device)] = 0

    def begin_step(self) -> tuple[Tensor, Tensor]:
        """Attention mask (N, W) and positions of the new tokens (N, 1) of the N active rows."""
        self._cells.clear()
        lengths = self.lengths[: self.num_active, None]  # (N, 1)
        columns = torch.arange(self.width, device=lengths.device)  # (W,)
        return columns <= lengths, lengths.clone()

    def cells(self, num_heads: int) -> Tensor:
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


class KVLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's keys and values, each (R, heads, W, head size).

    Adding a token copies that token alone, where a `DynamicLayer` copies all of them.
    """

    is_sliding = False
    keys: Tensor
    values: Tensor

    def __init__(self, batch: KVBatch, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.batch = batch
        self.memory = keys.new_empty(0), values.new_empty(0)
        self._shapes = tuple((x.shape[1], x.shape[3]) for x in (keys, values))
        self.start()
        self.is_initialized = True

    def start(self, *, keep: bool = False) -> None:
        """Take the batch's new shape, whatever is in it; memory is used again if it suffices.

        With `keep`, of no more rows than there were, what they hold stays, and no more is held.
        """
        rows, width = self.batch.num_rows, self.batch.width
        sizes = [rows * heads * width * size for heads, size in self._shapes]
        if keep:
            keys, values = (x[:size].clone() for x, size in zip(self.memory, sizes, strict=True))
            self.memory = keys, values
        elif any(len(x) < size for x, size in zip(self.memory, sizes, strict=True)):
            # Zeros, as a masked column meets an attention weight of 0, and 0 * NaN is NaN.
            keys, values = self.memory
            self.memory = keys.new_zeros(sizes[0]), values.new_zeros(sizes[1])
        self.keys, self.values = (
            x[:size].view(rows, heads, width, -1)
            for x, size, (heads, _) in zip(self.memory, sizes, self._shapes, strict=True)
        )

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Part of the interface; a layer is made whole."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Add one token per row, each (N, heads, 1, head size); return all, (N, heads, W, ...)."""
        for memory, new in ((self.keys, key_states), (self.values, value_states)):
            size = new.shape[-1]
            cells = self.batch.cells(new.shape[1]).to(memory.device)
            memory.view(-1, size).index_copy_(0, cells, new.reshape(-1, size))
        return self.keys[: self.batch.num_active], self.values[: self.batch.num_active]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Number of columns, and the first of them."""
        return self.batch.width, 0

    def get_seq_length(self) -> int:
        """Columns but the last, so that the causal mask hides none; `begin_step`'s mask does."""
        return max(self.batch.width - 1, 0)

    def get_max_length(self) -> int:
        """No maximum."""
        return -1
