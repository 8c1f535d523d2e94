"""A Llama that goes through its middle layers several times: depth as a setting of generation.

The first layers read the tokens, the middle ones (the core) are repeated with the same weights,
and the last ones write. Before each repetition what the first layers made of the tokens is mixed in
again, by a linear map that begins as "leave it as it is".

Source: Geiping et al. 2025 (arXiv 2502.05171) for the form, McLeish et al. 2025 (arXiv 2511.07384)
for beginning with the layers of a model that was trained without loops.
"""

from __future__ import annotations

import copy
from typing import Any, Self

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.llama.modeling_llama import LlamaModel
from transformers.utils.output_capturing import capture_outputs


class LoopedConfig(LlamaConfig):  # type: ignore[misc]
    """That of a Llama, and how its layers are gone through.

    Attributes:
        prelude_layers: layers before the core.
        core_layers: layers that are repeated.
        coda_layers: layers after it.
        num_loops: how often the core is gone through.
        num_hidden_layers: layers that a token goes through, and so entries of its cache; it follows
            from the others.
    """

    model_type = "looped_llama"
    prelude_layers: int = 1
    core_layers: int = 1
    coda_layers: int = 1
    num_loops: int = 1

    def __post_init__(self, **kwargs: Any) -> None:
        self.set_loops(self.num_loops)
        super().__post_init__(**kwargs)

    def set_loops(self, num_loops: int) -> None:
        """Go through the core so often; raises ValueError for less than once."""
        if num_loops < 1:
            raise ValueError(f"num_loops: expected at least 1, found {num_loops}")
        self.num_loops = num_loops
        core = num_loops * self.core_layers
        self.num_hidden_layers = self.prelude_layers + core + self.coda_layers


class _Shifted:
    """A cache for one repetition of the core: each has keys and values of its own."""

    def __init__(self, cache: Cache, by: int) -> None:
        self.cache, self.by = cache, by

    def update(self, keys: Any, values: Any, layer: int, *args: Any, **kwargs: Any) -> Any:
        """That of the cache, so many layers further on."""
        return self.cache.update(keys, values, layer + self.by, *args, **kwargs)


class LoopedModel(LlamaModel):  # type: ignore[misc]
    """The decoder without its head."""

    config: LoopedConfig

    def __init__(self, config: LoopedConfig) -> None:
        super().__init__(config)
        del self.layers[config.prelude_layers + config.core_layers + config.coda_layers :]
        self.inject = nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)

    @capture_outputs  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """As of a Llama: token ids (B, L) to last hidden states (B, L, H)."""
        states = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        if position_ids is None:
            seen = cache.get_seq_length() if cache is not None else 0
            position_ids = torch.arange(states.shape[1], device=states.device)[None] + seen
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=states,
            attention_mask=attention_mask,
            cache=cache,
            position_ids=position_ids,
        )
        rotary = self.rotary_emb(states, position_ids=position_ids)

        def through(first: int, last: int, x: torch.Tensor, shift: int) -> torch.Tensor:
            for layer in self.layers[first:last]:
                x = layer(
                    x,
                    attention_mask=mask,
                    position_embeddings=rotary,
                    position_ids=position_ids,
                    cache=None if cache is None else _Shifted(cache, shift),
                    use_cache=use_cache,
                    **kwargs,
                )
            return x

        config = self.config
        core, coda = config.prelude_layers, config.prelude_layers + config.core_layers
        read = states = through(0, core, states, 0)
        for loop in range(config.num_loops):
            states = self.inject(torch.cat((states, read), -1))
            states = through(core, coda, states, loop * config.core_layers)
        shift = (config.num_loops - 1) * config.core_layers
        states = self.norm(through(coda, len(self.layers), states, shift))
        return BaseModelOutputWithPast(last_hidden_state=states, cache=cache)


class LoopedForCausalLM(LlamaForCausalLM):  # type: ignore[misc]
    """The whole model."""

    config_class = LoopedConfig
    config: LoopedConfig

    def __init__(self, config: LoopedConfig) -> None:
        super().__init__(config)
        self.model = LoopedModel(config)
        self.post_init()

    @property
    def repeated_parameters(self) -> int:
        """Parameters that a token meets again, in all loops after the first together."""
        config, decoder = self.config, self.model
        core = decoder.layers[config.prelude_layers :][: config.core_layers]
        once = sum(p.numel() for part in (core, decoder.inject) for p in part.parameters())
        return int((config.num_loops - 1) * once)

    def at_depth(self, num_loops: int) -> Self:
        """The model that goes through the core so often, on the same weights; compiled like it."""
        shared = {id(x): x for x in (*self.parameters(), *self.buffers())}
        twin = copy.deepcopy(self, shared)
        twin.config.set_loops(num_loops)
        if self._compiled_call_impl is not None:
            twin.compile(dynamic=True)
        return twin


AutoConfig.register(LoopedConfig.model_type, LoopedConfig)
AutoModelForCausalLM.register(LoopedConfig, LoopedForCausalLM)
