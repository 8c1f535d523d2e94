"""A language model on this machine: its weights, tokenizer, prompts and limits."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from controller.backends.base import Request
from controller.errors import BackendError
from controller.prompts import Message, judged_messages, messages, plain_text
from controller.types import AdapterSpec

if TYPE_CHECKING:
    from controller.backends.adapters import ScoreHead

UNBOUNDED = 2**31
DIGEST_LENGTH = 16


@dataclass(frozen=True, kw_only=True)
class Written:
    """A question and an attempt as token ids.

    Attributes:
        tokens: of both.
        begin: position of the attempt's first one.
    """

    tokens: tuple[int, ...]
    begin: int


@dataclass(frozen=True, eq=False, kw_only=True)
class LocalModel:
    """One model of the ladder.

    Attributes:
        name: of its directory, or on the hub.
        rung: 0 for the small model.
        parameters: that multiply every token: all but an input embedding that is not the
            output head as well.
        digest: of the weights.
        model: its cache must consist of plain keys and values.
        tokenizer: its chat template is used if there is one, plain text otherwise.
        adapters: on its weights; see `controller.backends.adapters`.
        score: head of the verifier among them.
    """

    name: str
    rung: int
    parameters: int
    digest: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    adapters: tuple[AdapterSpec, ...] = ()
    score: ScoreHead | None = None

    @property
    def end_tokens(self) -> frozenset[int]:
        """Ids that end an attempt, from the generation config and the tokenizer."""
        ends = getattr(self.model.generation_config, "eos_token_id", None)
        found = ends if isinstance(ends, list) else [ends]
        return frozenset(i for i in (*found, self.tokenizer.eos_token_id) if i is not None)

    @property
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
            context = min(context or UNBOUNDED, getattr(layer, "sliding_window", UNBOUNDED))
        return context or UNBOUNDED

    def encode(self, request: Request) -> tuple[int, ...]:
        """Token ids of a request's prompt.

        Raises:
            BackendError: a REVISE without a parent's text.
        """
        return self.encode_chat(messages(request))

    def encode_chat(self, chat: Sequence[Message], *, complete: bool = False) -> tuple[int, ...]:
        """Token ids of a chat; a chat template brings its special tokens with it.

        Args:
            chat: turn by turn.
            complete: nothing is to be written after it.
        """
        if not self.tokenizer.chat_template:
            return tuple(self.tokenizer(plain_text(chat))["input_ids"])
        text = self.tokenizer.apply_chat_template(
            chat, add_generation_prompt=not complete, tokenize=False
        )
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def encode_attempt(
        self, question: str, attempt: str, history: Sequence[Message] = ()
    ) -> Written:
        """Token ids of a question, after earlier turns of its chat, and an attempt at it."""
        chat = [*history, *judged_messages(question, attempt)]
        begin = len(self.encode_chat(chat[:-1]))
        return Written(tokens=self.encode_chat(chat, complete=True), begin=begin)

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of an attempt, without end token and other special ones."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))


def load_model(
    path_or_hub_id: str | Path,
    rung: int,
    *,
    dtype: torch.dtype | str = "auto",
    device_map: str | Mapping[str, int | str] | None = None,
    compiled: bool = False,
) -> LocalModel:
    """Read a model and its tokenizer; code that comes with a model is never run.

    Args:
        path_or_hub_id: a directory, or a name on the Hugging Face hub.
        rung: 0 for the small model, 1 and up for the ladder above it.
        dtype: of the weights in memory, as torch names it; "auto" takes them as they are stored.
        device_map: where the layers go: "auto" lets accelerate spread them over all GPUs that
            are visible, a mapping names a device for each module, None is the processor.
        compiled: have torch.compile make kernels for it, when they are first needed.

    Raises:
        BackendError: no such directory or model, no tokenizer with it, or no room for it on the
            devices.
    """
    source = str(path_or_hub_id)
    local = Path(source).is_dir()
    if not local and _looks_local(path_or_hub_id):
        raise BackendError(f"model: expected a directory, found none at {source}")
    try:
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, device_map=device_map)
    except (OSError, ValueError) as error:
        raise BackendError(f"model {source}: expected a directory or hub model; {error}") from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise BackendError(
            f"tokenizer of {source}: expected tokenizer.json or the like beside the model; {error}"
        ) from error
    if any(parameter.is_meta for parameter in model.parameters()):
        raise BackendError(
            f"model {source}: expected all layers to fit on the devices, found some left over; "
            "give it more or larger ones, or dtype bfloat16"
        )
    if compiled:
        model.compile(dynamic=True)
    return LocalModel(
        name=Path(source).resolve().name if local else source,
        rung=rung,
        parameters=active_parameters(model),
        digest=weights_digest(model),
        model=model,
        tokenizer=tokenizer,
    )


def _looks_local(path_or_hub_id: str | Path) -> bool:
    """Whether a name that is no directory was meant as one: hub names are owner/name."""
    text = str(path_or_hub_id)
    return (
        isinstance(path_or_hub_id, Path)
        or text.startswith((".", "/", "~"))
        or (text.count("/") > 1)
    )


def active_parameters(model: PreTrainedModel) -> int:
    """Parameters that multiply every token.

    An input embedding is looked up, not multiplied, unless it is the output head as well. The
    experts of a mixture all count, although a token passes through some of them only.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head is not None and head.weight is embedding.weight
    looked_up = 0 if tied else embedding.weight.numel()
    return int(sum(p.numel() for p in model.parameters()) - looked_up)


def weights_digest(model: PreTrainedModel) -> str:
    """SHA-256 over parameter names and bytes in the order of names, shortened, in hex."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(name.encode())
        data = parameter.detach().cpu().contiguous().view(-1).view(torch.uint8)
        digest.update(data.numpy().data)
    return digest.hexdigest()[:DIGEST_LENGTH]
