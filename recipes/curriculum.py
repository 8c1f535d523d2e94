"""Worked questions as training batches for the bundled language models."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerFast

from envs.questions.bundled import TASKS, QuestionSource
from recipes.solutions import solution

Position = tuple[int, int]
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class Mix:
    """How often training draws what; weights are relative.

    Attributes:
        levels: weight by level, 1 first. The last level is never drawn, which puts it
            out of reach of the models by construction.
        tasks: weight by task name; 1 unless given.
    """

    levels: tuple[float, ...]
    tasks: Mapping[str, float]


BROAD = Mix(levels=(1, 2, 3, 3, 0), tasks={})
"""All tasks alike, most of it difficult: long chains of steps are learned from these."""

ARITHMETIC = Mix(
    levels=(3, 3, 2, 1, 0),
    tasks={"chain_sum": 2, "products": 2, "count_bits": 0.5, "letter_counting": 0.5},
)
"""Mostly easy sums and products, which all number tasks build on."""


class Curriculum:
    """Endless batches of so many padded tokens, a pure function of (seed, mix, block).

    The examples of a block are generated, sorted by length and cut at a time.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        batch_tokens: int,
        seed: int,
        mix: Mix,
        examples_per_block: int = 2048,
    ) -> None:
        self.tokenizer, self.batch_tokens = tokenizer, batch_tokens
        self.seed, self.examples_per_block = seed, examples_per_block
        self._weights = {
            (task, level): mix.tasks.get(task, 1) * weight
            for task in TASKS
            for level, weight in enumerate(mix.levels, start=1)
            if weight
        }
        self._sources = [QuestionSource(task, level) for task, level in self._weights]

    def _examples(self, rng: random.Random) -> list[tuple[list[int], int]]:
        """Token ids and prompt length of one block of examples, shortest first."""
        prompts, solutions = [], []
        weights = list(self._weights.values())
        for source in rng.choices(self._sources, weights, k=self.examples_per_block):
            drawn = next(source.draw("language_model", rng, num_draws=1000))
            prompts.append(f"<|user|>{drawn.question.text}<|end|><|assistant|>")
            solutions.append(f"{solution(drawn)}<|end|>")
        encoded = zip(
            self.tokenizer(prompts)["input_ids"],
            self.tokenizer(solutions)["input_ids"],
            strict=True,
        )
        return sorted(((p + s, len(p)) for p, s in encoded), key=lambda e: len(e[0]))

    def block(self, index: int) -> list[Batch]:
        """Batches of a block: token ids and labels, each (B, L), -100 where unscored."""
        rng = random.Random(f"{self.seed}/{index}")
        examples = self._examples(rng)
        batches = []
        while examples:
            size = 1
            while size < len(examples) and len(examples[size][0]) * (size + 1) <= self.batch_tokens:
                size += 1
            batches.append(self._batch(examples[:size]))
            examples = examples[size:]
        rng.shuffle(batches)
        return batches

    def _batch(self, examples: list[tuple[list[int], int]]) -> Batch:
        ids = [torch.tensor(tokens) for tokens, _ in examples]
        labels = [torch.tensor([-100] * length + tokens[length:]) for tokens, length in examples]
        return (
            pad_sequence(ids, batch_first=True, padding_value=self.tokenizer.pad_token_id),
            pad_sequence(labels, batch_first=True, padding_value=-100),
        )  # (B, L) each

    def batches(self, start: Position) -> Iterator[tuple[Position, Batch]]:
        """Batches from `start` = (block, batch) on, each with the position after it."""
        block, first = start
        while True:
            batches = self.block(block)
            for i in range(first, len(batches)):
                following = (block, i + 1) if i + 1 < len(batches) else (block + 1, 0)
                yield following, batches[i]
            block, first = block + 1, 0
