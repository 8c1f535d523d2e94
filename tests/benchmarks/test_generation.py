"""The generation benchmark, on a tiny model: that it measures, not how fast."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.generation import Asked, _count_tokens, run
from recipes.language_models import LanguageModelConfig, build_model
from recipes.tokenizer import build_tokenizer

SHAPE = LanguageModelConfig(
    hidden_size=16, num_layers=1, num_heads=2, intermediate_size=16, train_tokens=0, broad_tokens=0
)


def test_tokens_after_the_end_do_not_count() -> None:
    written = torch.tensor([[5, 1, 1, 1], [5, 6, 7, 8], [2, 5, 5, 5]])
    assert _count_tokens(written, torch.tensor([1, 2])) == 2 + 4 + 1


def test_reports_both_contenders(tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    build_model(SHAPE, tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    report = run(tmp_path, 3, Asked(num_samples=2, max_new_tokens=4), num_repeats=3)
    assert report["num_questions"] == 3
    for ratio, unit in (("ratio", "s"), ("cpu_ratio", "cpu_s")):
        backend, generate = (report[f"{x}_tokens_per_{unit}"] for x in ("backend", "generate"))
        assert backend > 0
        assert report[ratio] == backend / generate
