"""What an attempt takes of a model's hardware, from the architecture that its config.json tells."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from controller.errors import BackendError, ConfigError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from controller.backends.places import ModelPlace

_BYTES = 2
"""Of a weight, a key or a value: bfloat16."""


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """An accelerator, by its data sheet.

    Attributes:
        flops: bfloat16 operations per second, dense.
        bandwidth: bytes per second from memory.
    """

    flops: float
    bandwidth: float


HARDWARE = {
    "h200": Hardware(flops=989e12, bandwidth=4.8e12),
    "h100": Hardware(flops=989e12, bandwidth=3.35e12),
    "a100": Hardware(flops=312e12, bandwidth=2.04e12),
    "l40s": Hardware(flops=362e12, bandwidth=0.864e12),
    "l4": Hardware(flops=121e12, bandwidth=0.3e12),
    "rtx4090": Hardware(flops=165e12, bandwidth=1.008e12),
}
"""By name. Source: NVIDIA's data sheets, SXM versions where there are several."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Sizes of a decoder that cost follows from.

    Attributes:
        parameters: that multiply every token: of a mixture the experts that a token goes through,
            of a looped model those of its core once for each loop.
        stored: parameters in memory, however often they are gone through.
        experts: parameters of all experts; 0 without a mixture.
        expert_share: experts that a token goes through, of all; 1 without a mixture.
        layers: with attention, that a token goes through, each with keys and values of its own.
        heads: of queries, per layer.
        kv_heads: of keys and values, per layer.
        head_dim: of a head.
        window: tokens that attention looks back, by layer; None for all.
    """

    parameters: float
    stored: float
    experts: float
    expert_share: float
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    window: tuple[int | None, ...]

    @classmethod
    def of(cls, config: Any) -> Architecture:
        """From a configuration of transformers; no weights are read or made.

        Raises:
            BackendError: transformers has no causal language model of that kind.
        """
        import torch
        from transformers import AutoModelForCausalLM

        try:
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        except (ValueError, KeyError, AttributeError) as error:
            raise BackendError(f"model: expected a causal language model, found {error}") from None
        text = config.get_text_config()
        layers, heads = text.num_hidden_layers, text.num_attention_heads
        return cls(
            parameters=active_parameters(model),
            stored=float(sum(p.numel() for p in model.parameters())),
            experts=float(sum(p.numel() for name, p in _experts(model))),
            expert_share=_expert_share(text),
            layers=layers,
            heads=heads,
            kv_heads=getattr(text, "num_key_value_heads", None) or heads,
            head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
            window=_windows(text, layers),
        )

    @classmethod
    def read(cls, place: ModelPlace) -> Architecture:
        """From a directory, a GGUF file or the Hub.

        Raises:
            BackendError: it has no configuration that transformers reads.
        """
        from transformers import AutoConfig

        from controller.backends.local.looped import LoopedConfig

        found = (str(place.path.parent), place.path.name) if place.is_gguf and place.path else None
        source, file = found or place.hub_file or (place.source, None)
        named = {"gguf_file": file} if file else {}
        try:
            config = AutoConfig.from_pretrained(source, trust_remote_code=False, **named)
        except (OSError, ValueError, KeyError) as error:
            raise BackendError(
                f"model {place.text}: expected its configuration, found none: {error}"
            ) from None
        if isinstance(config, LoopedConfig):
            config.set_loops(place.body.get("num_loops", config.num_loops))
        return cls.of(config)

    @property
    def kept_bytes(self) -> float:
        """Of the keys and values of a token, in all layers."""
        return float(_BYTES * 2 * self.kv_heads * self.head_dim * self.layers)

    def attention(self, prompt: int, written: int, *, cached: bool = False) -> float:
        """Operations of attention in an attempt: 4 x heads x head size for each token looked at.

        Source: Hoffmann et al. 2022 (arXiv 2203.15556), appendix F.
        """
        looked_at = sum(
            _looked_at(prompt + written, window) - (_looked_at(prompt, window) if cached else 0)
            for window in self.window
        )
        return 4.0 * self.heads * self.head_dim * looked_at

    def flops(self, prompt: int, written: int, *, cached: bool = False) -> float:
        """Operations of an attempt with so many tokens; a cached prompt is not read again."""
        read = written if cached else prompt + written
        return 2.0 * self.parameters * read + self.attention(prompt, written, cached=cached)

    def seconds(self, prompt: int, written: int, hardware: Hardware, *, batch: int = 1) -> float:
        """How long an attempt takes when so many are written side by side, by the roofline.

        Prompts are bound by operations or by reading the weights once; every written token by
        operations or by reading weights, keys and values. Source: Williams et al. 2009, "Roofline".
        """
        # Of the experts those are read that any token of the batch goes through.
        touched = 1 - (1 - self.expert_share) ** batch
        weights = _BYTES * (self.parameters + self.experts * (touched - self.expert_share))
        half = prompt + written / 2
        context = sum(half if window is None else min(window, half) for window in self.window)
        kept = self.kept_bytes / self.layers * context
        operations = self.flops(prompt, written, cached=True) / max(written, 1)
        step = max(
            batch * operations / hardware.flops, (weights + batch * kept) / hardware.bandwidth
        )
        reading = max(batch * self.flops(prompt, 0) / hardware.flops, weights / hardware.bandwidth)
        return reading + written * step


def active_parameters(model: PreTrainedModel) -> float:
    """Parameters that multiply every token.

    An input embedding is looked up, not multiplied, unless it is the output head as well. Of the
    experts of a mixture those count that a token goes through; a looped model's core counts as
    often as it is gone through.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head is not None and head.weight is embedding.weight
    idle = 1 - _expert_share(model.config.get_text_config())
    count = sum(p.numel() for p in model.parameters())
    count -= 0 if tied else embedding.weight.numel()
    count += getattr(model, "repeated_parameters", 0)
    return float(count - idle * sum(p.numel() for _, p in _experts(model)))


def _experts(model: PreTrainedModel) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, p) for name, p in model.named_parameters() if ".experts." in name]


def named_hardware(name: str) -> Hardware:
    """Hardware by name, or FLOPS/BANDWIDTH in numbers.

    >>> named_hardware("100e12/1e12").bandwidth
    1000000000000.0

    Raises:
        ConfigError: it is neither.
    """
    if name.lower() in HARDWARE:
        return HARDWARE[name.lower()]
    try:
        flops, bandwidth = map(float, name.split("/"))
        if flops > 0 and bandwidth > 0:
            return Hardware(flops=flops, bandwidth=bandwidth)
    except ValueError:
        pass
    raise ConfigError(
        f"hardware: expected one of {', '.join(HARDWARE)}, or operations and bytes per second as "
        f"in 100e12/1e12, found {name!r}"
    )


def _expert_share(text: Any) -> float:
    experts = _first(text, ("num_local_experts", "num_experts", "n_routed_experts"))
    used = _first(text, ("num_experts_per_tok", "num_experts_per_token", "moe_topk"))
    return float(used / experts) if experts and used else 1.0


def _first(config: Any, names: Iterable[str]) -> int | None:
    return next((v for name in names if isinstance(v := getattr(config, name, None), int)), None)


def _windows(text: Any, layers: int) -> tuple[int | None, ...]:
    size, kinds = getattr(text, "sliding_window", None), getattr(text, "layer_types", None)
    if not size:
        return (None,) * layers
    if kinds:
        return tuple(size if kind == "sliding_attention" else None for kind in kinds)
    return (size if getattr(text, "use_sliding_window", True) else None,) * layers


def _looked_at(tokens: int, window: int | None) -> float:
    """Tokens that the first `tokens` of a context look at, themselves among them, in all."""
    near = tokens if window is None else min(tokens, window)
    return near * (near + 1) / 2 + (tokens - near) * near
