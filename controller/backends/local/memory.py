"""What models remember of texts that share their beginnings.

A memory holds keys and values of its own tokens alone and points at the memory before it, so
that a tree of texts is kept once, and dropping the end of a text leaves the rest as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from controller.backends.local.adapters import BASE, forward
from controller.backends.local.batches import batches_by_length, padded
from controller.backends.local.decoding import MODEL_ERRORS
from controller.backends.local.jobs import Prompt
from controller.backends.local.rows import KeysValues, PromptCache
from controller.errors import BackendError


@dataclass(frozen=True, eq=False)
class Memory:
    """What one model remembers of some text.

    Attributes:
        tokens: the last of the text, those that are kept here; at least one.
        layers: their keys and values.
        before: of all earlier tokens; None if there are none.
        logits: of the token that follows, (V,) float32.
        hidden: last hidden state at the last token, (H,) float32.
    """

    tokens: tuple[int, ...]
    layers: KeysValues
    before: Memory | None
    logits: torch.Tensor
    hidden: torch.Tensor

    @property
    def num_tokens(self) -> int:
        """Length of the whole text."""
        return sum(len(part.tokens) for part in self.parts())

    def parts(self) -> list[Memory]:
        """This memory and those before it, the first one first."""
        found: list[Memory] = []
        part: Memory | None = self
        while part is not None:
            found.append(part)
            part = part.before
        return found[::-1]

    def prompt(self) -> Prompt:
        """The whole text in one piece, for a decoder to go on from."""
        parts = self.parts()
        keys, values = (
            tuple(
                torch.cat([part.layers[layer][which] for part in parts], 1)
                for layer in range(len(self.layers))
            )
            for which in (0, 1)
        )
        cache = PromptCache(keys=keys, values=values, logits=self.logits, hidden=self.hidden)
        return Prompt(tuple(t for part in parts for t in part.tokens), cache=cache)

    def longer(self, written: Sequence[int], layers: KeysValues, last: Memory) -> Memory:
        """With further tokens.

        Args:
            written: tokens, one at least.
            layers: of all of them but the last.
            last: of the last one, after those.
        """
        joined = tuple(
            (torch.cat((keys, last_keys), 1), torch.cat((values, last_values), 1))
            for (keys, values), (last_keys, last_values) in zip(layers, last.layers, strict=True)
        )
        return Memory(tuple(written), joined, self, last.logits, last.hidden)


@dataclass(frozen=True, eq=False)
class Piece:
    """Tokens for a model to read.

    Attributes:
        tokens: one at least.
        before: of the text before them; None if there is none.
        unfinished: keys and values of tokens between the two, without a memory of their own.
    """

    tokens: tuple[int, ...]
    before: Memory | None = None
    unfinished: KeysValues | None = None

    def past(self) -> list[KeysValues]:
        """Keys and values of everything before the tokens, part by part."""
        parts = [part.layers for part in self.before.parts()] if self.before else []
        return parts if self.unfinished is None else [*parts, self.unfinished]

    @property
    def past_tokens(self) -> int:
        """How many tokens that is."""
        return sum(layers[0][0].shape[1] for layers in self.past())


@torch.inference_mode()
def read(model: Any, pieces: Sequence[Piece]) -> list[Memory]:
    """Let a model read pieces of text, each after its own past.

    Args:
        model: a causal language model with plain key/value caches.
        pieces: what to read, B of them in batches.

    Raises:
        BackendError: the model fails, or its logits are not finite.
    """
    memories: dict[int, Memory] = {}
    pasts = [piece.past_tokens for piece in pieces]
    lengths = [past + len(piece.tokens) for past, piece in zip(pasts, pieces, strict=True)]
    for batch in batches_by_length(lengths):
        try:
            found = _read(model, [pieces[i] for i in batch], [pasts[i] for i in batch])
        except MODEL_ERRORS as error:
            raise BackendError(f"reading {len(batch)} texts: {error}") from error
        memories.update(zip(batch, found, strict=True))
    return [memories[i] for i in range(len(pieces))]


def _read(model: Any, pieces: Sequence[Piece], pasts: Sequence[int]) -> list[Memory]:
    inputs, counts = padded([piece.tokens for piece in pieces], model.device)
    past = torch.tensor(pasts, device=model.device)[:, None]  # (B, 1)
    columns = torch.arange(max(pasts), device=model.device)  # (P,)
    mask = torch.cat(((columns < past).long(), inputs["attention_mask"]), 1)  # (B, P + L)
    output = forward(
        model,
        [BASE] * len(pieces),
        input_ids=inputs["input_ids"],
        attention_mask=mask,
        position_ids=inputs["position_ids"] + past,
        cache=_past_cache(pieces, pasts),
        use_cache=True,
        output_hidden_states=True,
        logits_to_keep=(counts - 1)[:, None],
    )
    first, memories = max(pasts), []
    layers = [(keys, values) for keys, values, *_ in output.cache]
    for row, (piece, count) in enumerate(zip(pieces, counts.tolist(), strict=True)):
        logits = output.logits[row, 0].to(torch.float32, copy=True)
        if not bool(logits.logsumexp(-1).isfinite()):
            raise BackendError("logits: expected finite numbers, found NaN or infinity")
        own = slice(first, first + count)
        kept = tuple(
            (keys[row, :, own].clone(), values[row, :, own].clone()) for keys, values in layers
        )
        hidden = output.hidden_states[-1][row, count - 1].to(torch.float32, copy=True)
        memories.append(Memory(piece.tokens, kept, piece.before, logits, hidden))
    return memories


def _past_cache(pieces: Sequence[Piece], pasts: Sequence[int]) -> DynamicCache:
    """Everything before the pieces, padded on the right to one length."""
    cache = DynamicCache()
    parts = [piece.past() for piece in pieces]
    some = next((part for past in parts for part in past), None)
    if some is None:
        return cache
    for layer, pair in enumerate(some):
        keys, values = (x.new_zeros(len(pieces), x.shape[0], max(pasts), x.shape[2]) for x in pair)
        for row, past in enumerate(parts):
            begin = 0
            for part in past:
                end = begin + part[layer][0].shape[1]
                keys[row, :, begin:end], values[row, :, begin:end] = part[layer]
                begin = end
        cache.update(keys, values, layer)
    return cache
