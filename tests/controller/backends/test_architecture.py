"""Costs of architectures against what their makers publish and what PyTorch counts."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModelForCausalLM,
    GptOssConfig,
    LlamaConfig,
    MixtralConfig,
    Qwen2Config,
    Qwen3MoeConfig,
)

from controller.backends.architecture import HARDWARE, Architecture, named_hardware
from controller.errors import ConfigError

LLAMA_3_70B = LlamaConfig(
    hidden_size=8192,
    intermediate_size=28672,
    num_hidden_layers=80,
    num_attention_heads=64,
    num_key_value_heads=8,
    vocab_size=128256,
)
QWEN3_30B_A3B = Qwen3MoeConfig(
    hidden_size=2048,
    num_hidden_layers=48,
    num_attention_heads=32,
    num_key_value_heads=4,
    head_dim=128,
    num_experts=128,
    num_experts_per_tok=8,
    moe_intermediate_size=768,
    vocab_size=151936,
)


@pytest.mark.parametrize(
    ("config", "billions"),
    [
        (LlamaConfig(), 6.74 - 0.13),
        (LLAMA_3_70B, 70.55 - 1.05),
        (MixtralConfig(), 12.88 - 0.13),
        (QWEN3_30B_A3B, 3.35 - 0.31),
    ],
)
def test_published_sizes_less_the_embedding_that_is_looked_up(config, billions):
    assert Architecture.of(config).parameters / 1e9 == pytest.approx(billions, rel=0.01)


@pytest.mark.parametrize("kv_heads", [4, 1])
def test_operations_are_what_pytorch_counts(kv_heads):
    config = Qwen2Config(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        vocab_size=96,
        tie_word_embeddings=False,
    )
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 40, dtype=torch.long))
    found = Architecture.of(config)
    # Without a cache, eager attention computes the half of the square that it then masks.
    whole = 4 * found.heads * found.head_dim * found.layers * 40 * 40
    weights = found.flops(40, 0) - found.attention(40, 0)
    assert weights + whole == pytest.approx(counter.get_total_flops(), rel=0.02)
    assert found.attention(40, 0) == pytest.approx(whole / 2, rel=0.03)


def test_a_further_attempt_is_one_without_the_prompt():
    found = Architecture.of(LLAMA_3_70B)
    first, prompt = found.flops(300, 200), found.flops(300, 0)
    assert found.flops(300, 200, cached=True) == pytest.approx(first - prompt)


def test_windows_bound_what_is_looked_at():
    found = Architecture.of(GptOssConfig())
    near = sum(window is not None for window in found.window)
    assert 0 < near < found.layers
    more = found.attention(4001, 0) - found.attention(4000, 0)
    each = 4 * found.heads * found.head_dim
    assert more == pytest.approx(each * (128 * near + 4001 * (found.layers - near)))


def test_small_batches_wait_for_memory_and_large_ones_for_arithmetic():
    found, h100 = Architecture.of(LlamaConfig()), HARDWARE["h100"]
    alone = found.seconds(100, 100, h100) - found.seconds(100, 0, h100)
    assert alone == pytest.approx(100 * 2 * found.parameters / h100.bandwidth, rel=0.01)
    many = found.seconds(0, 100, h100, batch=4096) / 4096
    assert many < alone / 50
    mixture = Architecture.of(MixtralConfig())
    per_batch = [mixture.seconds(0, 100, h100, batch=n) for n in (1, 8, 64)]
    assert per_batch[1] > 2 * per_batch[0], "more experts are read for a batch"


def test_hardware_is_named_or_told_in_numbers():
    assert named_hardware("L4") is HARDWARE["l4"]
    assert named_hardware("1e12/2e11").bandwidth == 2e11
    for wrong in ("tpu", "1e12", "0/1"):
        with pytest.raises(ConfigError, match="expected one of h200"):
            named_hardware(wrong)
