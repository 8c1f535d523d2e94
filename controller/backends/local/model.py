"""A language model on this machine: its weights, tokenizer, prompts and limits."""

from __future__ import annotations

import hashlib
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from functools import cache, cached_property
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.utils import logging

from controller.backends.architecture import active_parameters
from controller.backends.base import UNLIMITED, Request
from controller.backends.identity import weights_digest
from controller.backends.local.looped import LoopedForCausalLM
from controller.backends.places import ModelPlace
from controller.backends.prompts import Message, judged_messages, messages, plain_text
from controller.errors import BackendError, ConfigError
from controller.process.types import AdapterSpec, ModelSpec

END_TOKENS = (
    *("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>", "<|endoftext|>"),
    *("<|end_of_text|>", "<EOT>"),
)
"""Of GGUF files; source: llama.cpp, tokens that end a generation."""
DIGEST_LENGTH = 16
_ROWS, _SIZE, _REPEATS = 8, 1536, 30
LEAST_WEIGHTS = 2**18
"""Smaller layers stay as they are: they lie in the processor's cache."""


class Encoded(NamedTuple):
    """A question and an attempt as token ids; the attempt's begin at `begin`."""

    tokens: tuple[int, ...]
    begin: int


@dataclass(frozen=True, eq=False)
class StateReadout:
    """Tells from the model's hidden states how likely attempts are right.

    Attempts at questions that it has learnt from are judged by what was learnt from others, so that
    a controller may learn from the same questions what a judgement is worth.

    Attributes:
        weights: of 2H states and 1, (1 + K, 2H + 1), learnt from all questions, and from all but
            those of one of K folds.
        learnt: (Q, 2), the key of each question's prompt, see `prompt_key`, and its fold.
    """

    weights: Tensor
    learnt: Tensor

    @cached_property
    def _folds(self) -> dict[int, int]:
        return dict(self.learnt.tolist())

    def __call__(self, states: Tensor, texts: Sequence[Encoded]) -> Tensor:
        """Logarithms of the probability that attempts are right, (B, 2), twice each."""
        rows = [self._folds.get(prompt_key(text), -1) + 1 for text in texts]
        weights = self.weights[rows].to(states.device)  # (B, 2H + 1)
        odds = (states.to(weights) * weights[:, :-1]).sum(1) + weights[:, -1]
        return functional.logsigmoid(odds)[:, None].expand(-1, 2)


def prompt_key(text: Encoded) -> int:
    """What tells the prompt of an attempt from others, 64 bits."""
    tokens = np.array(text.tokens[: text.begin], "<i8").tobytes()
    return int.from_bytes(hashlib.sha256(tokens).digest()[:8], "little", signed=True)


@dataclass(frozen=True, eq=False, kw_only=True)
class LocalModel:
    """One model of the ladder.

    Attributes:
        name: of its directory or file, or on the hub, unless it was given one.
        parameters: that multiply every token: all but an input embedding that is not the
            output head as well.
        digest: of the weights as they are stored, or loaded where a type was asked for.
        model: its cache must consist of plain keys and values.
        tokenizer: its chat template is used if there is one, plain text otherwise.
        score: calibration of the verifier among them, (2, 7).
        readout: what that verifier reads the model's own hidden states by; None for one that is
            an adapter.
    """

    name: str
    rung: int
    parameters: int
    digest: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    prompt: tuple[Message, ...] = ()
    adapters: tuple[AdapterSpec, ...] = ()
    score: Tensor | None = None
    readout: StateReadout | None = None

    @cached_property
    def end_tokens(self) -> frozenset[int]:
        """Ids that end an attempt, from the generation config and the tokenizer."""
        ends = getattr(self.model.generation_config, "eos_token_id", None)
        found = ends if isinstance(ends, list) else [ends]
        return frozenset(i for i in (*found, self.tokenizer.eos_token_id) if i is not None)

    @cached_property
    def context_tokens(self) -> int:
        """Longest sequence: of positions, or of the sliding window where that is shorter.

        Within its window, sliding attention is plain attention.

        Raises:
            BackendError: some layer keeps something other than keys and values.
        """
        context = getattr(
            self.model.config.get_text_config(decoder=True), "max_position_embeddings", None
        )
        for layer in DynamicCache(config=self.model.config).layers:
            if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
                raise BackendError(
                    f"{self.name}: expected a model whose cache is plain keys and values, found "
                    f"{type(layer).__name__}; serve it and use the openai backend"
                )
            context = min(context or UNLIMITED, getattr(layer, "sliding_window", UNLIMITED))
        return context or UNLIMITED

    def at_depth(self, num_loops: int | None) -> LocalModel:
        """The same weights, their core gone through so often; None: as the model was saved.

        Raises:
            ConfigError: its layers are gone through once, always.
        """
        if num_loops is None:
            return self
        if not isinstance(self.model, LoopedForCausalLM):
            raise ConfigError(
                f"arm {self.name}: expected num_loops of a looped model alone (model_type "
                f"{LoopedForCausalLM.config_class.model_type}), found "
                f"{self.model.config.model_type}; leave num_loops out of its body"
            )
        model = self.model.at_depth(num_loops)
        return replace(self, model=model, parameters=int(active_parameters(model)))

    def spec(self, temperature: float, max_new_tokens: int) -> ModelSpec:
        """What the ledger needs to know of it, where it is asked in this way."""
        return ModelSpec(
            name=self.name,
            rung=self.rung,
            parameters=self.parameters,
            max_new_tokens=min(max_new_tokens, self.context_tokens),
            temperature=temperature,
            digest=self.digest,
            adapters=self.adapters,
            prompt=self.prompt,
        )

    def encode(self, request: Request) -> tuple[int, ...]:
        """Token ids of a request's prompt.

        Raises:
            BackendError: a REVISE without a parent's text.
        """
        return self.encode_chat(messages(request, self.prompt))

    def encode_chat(self, chat: Sequence[Message], *, complete: bool = False) -> tuple[int, ...]:
        """Token ids of a chat; a chat template brings its special tokens with it."""
        if not self.tokenizer.chat_template:
            return tuple(self.tokenizer(plain_text(chat))["input_ids"])
        text = self.tokenizer.apply_chat_template(
            chat, add_generation_prompt=not complete, tokenize=False
        )
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def encode_attempt(
        self, question: str, attempt: str, history: Sequence[Message] = ()
    ) -> Encoded:
        """Token ids of a question, after earlier turns of its chat, and an attempt at it."""
        chat = [*history, *judged_messages(question, attempt)]
        begin = len(self.encode_chat(chat[:-1]))
        return Encoded(tokens=self.encode_chat(chat, complete=True), begin=begin)

    @cached_property
    def verdicts(self) -> tuple[list[int], list[int]]:
        """Tokens that begin a yes, and those that begin a no, however they are spelled."""
        yes, no = (
            {
                self.tokenizer(f"{space}{spelled}", add_special_tokens=False)["input_ids"][0]
                for spelled in (word, word.lower(), word.upper())
                for space in ("", " ")
            }
            for word in ("Yes", "No")
        )
        return sorted(yes - no), sorted(no - yes)

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of an attempt, without end token and other special ones."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def pieces(self) -> Callable[[int], str]:
        """Tells, token by token, the text that each adds: none in the middle of a character."""
        tokens: list[int] = []
        before = told = 0

        def piece(token: int) -> str:
            # What a token adds depends on those just before it alone; decoding all of them each
            # time would take as long as writing does where attempts are long.
            nonlocal before, told
            tokens.append(token)
            known, text = self.decode(tokens[before:told]), self.decode(tokens[before:])
            if text.endswith("\ufffd"):
                return ""
            before, told = told, len(tokens)
            return text[len(known) :]

        return piece


def check_rungs(models: Sequence[LocalModel]) -> None:
    """Raise ConfigError unless models stand on rungs 0, 1, ... of a ladder."""
    if not models or [m.rung for m in models] != list(range(len(models))):
        raise ConfigError(
            f"models: expected rungs 0, 1, ... in order, found {[m.rung for m in models]}"
        )


def load_model(
    where: str | Path | ModelPlace,
    rung: int,
    *,
    dtype: torch.dtype | str = "auto",
    device_map: str | Mapping[str, int | str] | None = None,
    compiled: bool = False,
) -> LocalModel:
    """Read a model and its tokenizer; code that comes with a model is never run.

    Args:
        where: a directory, a GGUF file or a name on the Hugging Face hub, as `ModelPlace` reads
            it; what the Hub's cache lacks is downloaded.
        rung: 0 for the small model, 1 and up for the ladder above it.
        dtype: of the weights in memory, as torch names it; "auto" takes them as they are stored,
            but for halves on a processor that computes faster with float32. The numbers that
            GGUF blocks stand for are bfloat16, or float32 on such a processor.
        device_map: where the layers go: "auto" lets accelerate spread them over all GPUs that
            are visible, a mapping names a device for each module, None is the processor.
        compiled: have torch.compile make kernels for it, when they are first needed.

    Raises:
        ConfigError: nothing of the kind is there.
        BackendError: no such model, no tokenizer with it, or no room for it on the devices.
    """
    place = where if isinstance(where, ModelPlace) else ModelPlace.parse(where)
    if place.is_server:
        raise ConfigError(f"model: expected one that can be loaded, found the server {place.text}")
    if place.hub_file:
        place = replace(place, path=_downloaded(*place.hub_file))
    with quietly():
        if place.is_gguf:
            model, tokenizer, digest = _load_gguf(place, dtype, device_map)
        else:
            model, tokenizer, digest = _load_pretrained(place.source, dtype, device_map)
    if dtype == "auto" and model.device.type == "cpu":
        model = model.to(fast_dtype(model.dtype))
    if compiled:
        model.compile(dynamic=True)
    return LocalModel(
        name=place.name,
        rung=rung,
        parameters=int(active_parameters(model)),
        digest=digest,
        model=model,
        tokenizer=tokenizer,
    )


Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase, str]
"""A model, its tokenizer and the digest of its weights as they are stored."""


def _load_pretrained(source: str, dtype: torch.dtype | str, device_map: Any) -> Loaded:
    try:
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, device_map=device_map)
    except (OSError, ValueError, AttributeError) as error:
        raise BackendError(f"model {source}: expected a directory or hub model; {error}") from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise BackendError(
            f"tokenizer of {source}: expected tokenizer.json or the like beside the model; {error}"
        ) from error
    _check_room(source, model)
    return model, tokenizer, weights_digest(dict(model.named_parameters()))


def _downloaded(repo: str, name: str) -> Path:
    """A file of the Hub, in its cache. Raises BackendError: neither has it."""
    try:
        return Path(hf_hub_download(repo, name))
    except (OSError, ValueError, EntryNotFoundError) as error:
        raise BackendError(
            f"model {repo}/{name}: expected the file on the Hub or in its cache, found neither: "
            f"{error}; fetch it with `hf download {repo} {name}`, or name a file that is here"
        ) from None


def _load_gguf(place: ModelPlace, dtype: torch.dtype | str, device_map: Any) -> Loaded:
    """The numbers that a file's blocks stand for, and the tokenizer in the same file."""
    assert place.path is not None
    file = place.path
    half = torch.bfloat16 if device_map is not None else fast_dtype(torch.bfloat16)
    try:
        # A progress bar of the reader's knows no setting.
        with redirect_stderr(StringIO()), _read_once():
            model = AutoModelForCausalLM.from_pretrained(
                str(file.parent),
                gguf_file=file.name,
                dtype=half if dtype == "auto" else dtype,
                device_map=device_map,
                # Kernels for packed weights would be fetched from the hub and run.
                quantization_config=GgufConfig(dequantize=True),
            )
            tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BackendError(
            f"model {file}: expected a GGUF file of an architecture that transformers reads; "
            f"{error}; serve it with llama.cpp and name its URL#MODEL instead"
        ) from error
    _check_room(str(file), model)
    # A file names one token that ends a turn; a chat template may use another.
    known = tokenizer.get_vocab()
    ends = {known[token] for token in END_TOKENS if token in known}
    model.generation_config.eos_token_id = sorted(ends | {tokenizer.eos_token_id} - {None})
    # The weights are plain numbers by now, which can be saved, moved and adapted.
    model.hf_quantizer = None
    model.is_quantized = False
    with file.open("rb") as stored:
        digest = hashlib.file_digest(stored, "sha256").hexdigest()[:DIGEST_LENGTH]
    return model, tokenizer, digest


@contextmanager
def _read_once() -> Iterator[None]:
    """Within, a GGUF file's header is read once, which transformers wants three times.

    With 150,000 tokens that takes seconds each time. The names of tensors, which it wants for each
    module, are looked up once, too.
    """
    import gguf

    made = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    try:
        for name, make in made.items():
            setattr(gguf, name, cache(make))
        yield
    finally:
        for name, make in made.items():
            setattr(gguf, name, make)


def _check_room(source: str, model: PreTrainedModel) -> None:
    if any(parameter.is_meta for parameter in model.parameters()):
        raise BackendError(
            f"model {source}: expected all layers to fit on the devices, found some left over; "
            "give it more or larger ones, or dtype bfloat16"
        )


@contextmanager
def quietly() -> Iterator[None]:
    """Without transformers' progress bars, and without notes for those who develop with it."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def fast_dtype(stored: torch.dtype) -> torch.dtype:
    """The type to compute with on this processor: as stored, or float32 where that is faster.

    Halves become float32 without loss. A processor without units for them is several times
    slower with them, one that has such units several times faster.
    """
    is_whole = stored.itemsize >= torch.float32.itemsize
    return stored if is_whole or _is_faster(stored) else torch.float32


@cache
def _is_faster(half: torch.dtype) -> bool:
    """Whether small products take less time in halves; measured, since flags do not tell.

    Both take turns, so that what else the machine does slows down both.
    """
    parts = {
        dtype: (torch.ones(_ROWS, _SIZE, dtype=dtype), torch.ones(_SIZE, _SIZE, dtype=dtype))
        for dtype in (half, torch.float32)
    }
    least = dict.fromkeys(parts, math.inf)
    for dtype in [*parts] * _REPEATS:
        started = time.perf_counter()
        functional.linear(*parts[dtype])
        least[dtype] = min(least[dtype], time.perf_counter() - started)
    return least[half] < least[torch.float32]


class PackedLinear(nn.Linear):
    """A linear layer that keeps nothing but its packed weights, and unpacks them on demand."""

    _packed: Tensor

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """A plain copy of the weights, (O, I)."""
        return self._packed.to_dense()

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.weight

    def forward(self, input: Tensor) -> Tensor:
        """From (..., I) to (..., O); where gradients are wanted, by the plain weights."""
        if torch.is_grad_enabled():
            return functional.linear(input, self.weight, self.bias)
        return torch.ops.mkldnn._linear_pointwise(input, self._packed, self.bias, "none", [], "")


def pack_linears(model: nn.Module) -> None:
    """Pack the large linear layers of a model, those on a processor, in place.

    A few rows times a large matrix take as long as the matrix takes to read. A plain product
    rearranges the matrix each time; this does it once and lets the plain one go.
    """
    if not torch._C._has_mkldnn:
        return
    for module in model.modules():
        if type(module) is nn.Linear and _gains(module.weight):
            packed = torch.ops.mkldnn._reorder_linear_weight(module.weight.detach())
            del module._parameters["weight"]
            module.__class__ = PackedLinear
            module._packed = packed


def _gains(weight: Tensor) -> bool:
    return (
        weight.device.type == "cpu"
        and weight.numel() >= LEAST_WEIGHTS
        and (
            weight.dtype == torch.float32
            or (weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
        )
    )
