"""A looped model: depth costs operations and cache, no weights, and changes what is written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, DynamicCache, LlamaForCausalLM

from controller.backends.architecture import Architecture, active_parameters
from controller.backends.base import Request, run_now
from controller.backends.local.backend import LocalBackend, load_model
from controller.backends.local.looped import LoopedForCausalLM
from controller.backends.places import ModelPlace
from controller.errors import ConfigError
from controller.process.actions import ActionKind
from envs.questions.bundled import draw_split
from recipes.looped import begun_as

SMALL, LOOPED = Path("checkpoints/small"), Path("checkpoints/looped")
DEPTHS = (1, 2, 4)
IDS = torch.arange(3, 43).view(2, 20)


@pytest.fixture(scope="module")
def looped() -> LoopedForCausalLM:
    """The bundled one."""
    return AutoModelForCausalLM.from_pretrained(LOOPED).eval()


def test_one_that_begins_as_a_llama_computes_what_that_does() -> None:
    llama = LlamaForCausalLM.from_pretrained(SMALL)
    begun = begun_as(llama, 1, 1)
    assert torch.equal(begun(IDS).logits, llama(IDS).logits)
    with pytest.raises(ValueError, match="expected at least 1"):
        begun.at_depth(0)


@pytest.mark.parametrize("loops", DEPTHS)
def test_depth_is_saved_and_loaded(looped: LoopedForCausalLM, tmp_path: Path, loops: int) -> None:
    deep = looped.at_depth(loops)
    deep.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.config.num_loops == loops
    assert torch.equal(again(IDS).logits, deep(IDS).logits)
    overridden = AutoModelForCausalLM.from_pretrained(LOOPED, num_loops=loops)
    assert torch.equal(overridden(IDS).logits, deep(IDS).logits)


@pytest.mark.parametrize("loops", DEPTHS)
def test_greedy_text_is_the_same_with_a_cache_without_and_in_batches(
    looped: LoopedForCausalLM, loops: int
) -> None:
    """By generate with and without its cache, and by our decoder side by side with others."""
    place = ModelPlace.parse(f'{LOOPED},body={{"num_loops": {loops}}}')
    local = load_model(place, 0).at_depth(loops)
    backend = LocalBackend(local, temperature=0, max_new_tokens=48)
    questions = draw_split("test", (2, 2, 0, 0, 0), seed=0, num_draws=500)[:12]
    requests = [Request(question=q, action=ActionKind.SAMPLE) for q in questions]
    attempts = run_now(backend.attempts(requests))
    deep = looped.at_depth(loops)
    for request, attempt in zip(requests, attempts, strict=True):
        ids = torch.tensor([local.encode(request)])
        with_cache, without = (
            deep.generate(ids, max_new_tokens=48, do_sample=False, use_cache=cached)
            for cached in (True, False)
        )
        assert torch.equal(with_cache, without)
        assert local.decode(with_cache[0, ids.shape[1] :].tolist()) == attempt.text


def test_depths_share_weights_and_differ_in_what_they_write(looped: LoopedForCausalLM) -> None:
    twins = [looped.at_depth(loops) for loops in DEPTHS]
    for twin in twins[1:]:
        mine, theirs = looped.parameters(), twin.parameters()
        assert all(a is b for a, b in zip(mine, theirs, strict=True))
    first, *others = (twin(IDS).logits for twin in twins)
    assert not any(torch.allclose(first, other) for other in others)
    assert [looped.config.num_loops, *(t.config.num_loops for t in twins)] == [1, *DEPTHS]


def test_depths_of_a_compiled_model_are_compiled() -> None:
    local = load_model(LOOPED, 0, compiled=True)
    deep = local.at_depth(2).model
    compiled = deep._compiled_call_impl
    assert compiled is not None
    assert compiled is not local.model._compiled_call_impl
    assert load_model(LOOPED, 0).at_depth(2).model._compiled_call_impl is None


@pytest.mark.parametrize("loops", DEPTHS)
def test_the_ledger_counts_what_pytorch_does(looped: LoopedForCausalLM, loops: int) -> None:
    deep, place = looped.at_depth(loops), ModelPlace.parse(LOOPED)
    found = Architecture.read(ModelPlace.parse(f'{LOOPED},body={{"num_loops": {loops}}}'))
    assert found.parameters == active_parameters(deep)
    assert found.stored == Architecture.read(place).stored == deep.num_parameters()
    cache = DynamicCache(config=deep.config)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        deep(IDS[:1], cache=cache, use_cache=True)
    assert len(cache.layers) == found.layers == 2 + loops
    kept = sum(x.numel() for layer in cache.layers for x in (layer.keys, layer.values))
    assert found.kept_bytes == 2 * kept / IDS.shape[1]
    weights = found.flops(IDS.shape[1], 0) - found.attention(IDS.shape[1], 0)
    products = [p for name, p in deep.named_parameters() if p.ndim == 2]
    once = 2 * sum(p.numel() for p in products) * IDS.shape[1]
    assert weights == pytest.approx(counter.get_total_flops(), rel=0.2)
    assert weights >= once


def test_depth_of_a_model_without_loops_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"small: expected num_loops of a looped model alone"):
        load_model(SMALL, 0).at_depth(2)
    with pytest.raises(ConfigError, match="expected num_loops of 1 to 128, found 0"):
        ModelPlace.parse(f'{LOOPED},body={{"num_loops": 0}}')
