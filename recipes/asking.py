"""Asking a language model what to do next, as a rule to compare with.

    python -m recipes.asking MODEL

Any chat model decides through transformers' `DecisionPipeline`: one forward pass per decision, the
options scored by the next-token logits of their labels. What it reads is charged to the
episode like any other tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from controller.backends.architecture import active_parameters
from controller.bundled import bundled
from controller.card import markdown_table
from controller.checkpoint import Checkpoint, load_checkpoint
from controller.errors import BackendError
from controller.process.actions import PRICED, Action, ActionKind
from controller.process.episodes import Episodes
from controller.process.types import ModelSpec
from envs.reward import LogUniform
from envs.traces.format import TraceSet
from envs.traces.table import TraceTable, build_table
from training.cli.app import main as run_program
from training.compare.simulate import play, play_checkpoint
from training.compare.summary import Bootstrap
from training.learn.threads import limit_threads

_INSTRUCTIONS = "What should be done next, so that the answer is likely right and little is spent?"


class AskedPolicy:
    """Plays what a language model says; see `controller.policy.network.Policy`.

    Args:
        path: directory or hub id of a chat model.
        small: the ladder's small model; its size sets the unit of cost.

    Raises:
        BackendError: the model cannot be loaded.
    """

    def __init__(self, path: str | Path, small: ModelSpec) -> None:
        from transformers import pipeline

        try:
            self._decide: Any = pipeline("decision", model=str(path))
        except (OSError, ValueError) as error:
            raise BackendError(f"model {path}: expected a chat model; {error}") from error
        self._weight = active_parameters(self._decide.model) / (small.parameters or float("inf"))
        self._said: dict[str, tuple[str, int]] = {}

    def act(self, episodes: Episodes, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        """The option that the model finds most likely; charges what it reads, (N,)."""
        chosen = np.zeros(len(mask), np.int64)
        open_rows = np.flatnonzero(mask.sum(1) > 1)
        tokens = np.zeros(len(open_rows), np.int64)
        for i, row in enumerate(open_rows.tolist()):
            options = _options(episodes, row, mask[row])
            said, tokens[i] = self._ask(_state(episodes, row), options)
            chosen[row] = next(
                p for p in np.flatnonzero(mask[row]).tolist() if said == _name(episodes, p)
            )
        episodes.charge(open_rows, np.asarray(self._weight * tokens, np.float64), tokens)
        return chosen

    def _ask(self, state: str, options: dict[str, str]) -> tuple[str, int]:
        """Name of the option that is chosen and the tokens that were read."""
        question = {"type": "choice", "instructions": _INSTRUCTIONS, "criteria": options}
        request = {"state": state, "questions": {"action": question}}
        key = json.dumps(request)
        if key not in self._said:
            prepared = self._decide.preprocess(request)
            ((inputs, _),) = prepared["prompts"]
            answer = self._decide.postprocess(self._decide.forward(prepared))["action"]["choice"]
            self._said[key] = answer, int(inputs["input_ids"].numel())
        return self._said[key]


def _name(episodes: Episodes, position: int) -> str:
    return str(episodes.config.actions[position])


def _options(episodes: Episodes, row: int, allowed: NDArray[np.bool_]) -> dict[str, str]:
    """What can be done, by name of the action."""
    costs = episodes.part(np.array([row])).expected_cost()[:, 0]
    prices = dict(zip(PRICED, (episodes.price[row] * costs).tolist(), strict=True))
    return {
        _name(episodes, p): _option(episodes.config.actions[p], prices)
        for p in np.flatnonzero(allowed).tolist()
    }


def _option(action: Action, prices: Mapping[ActionKind, float]) -> str:
    """What an action does and what it is expected to cost, in percentage points of accuracy."""
    points = 100 * prices.get(action.kind, 0.0) * action.width
    times = f", {action.width} times" if action.width > 1 else ""
    return f"{action.kind.spec.asked}{times} (costs {points:.1g} points)"


def _state(episodes: Episodes, row: int) -> str:
    """What is known of an episode, in words; few digits, so that answers can be reused."""
    e = episodes
    lines = [
        f"attempts by the small model: {e.counts[row, 0]}, revisions: {e.revisions[row]}, "
        f"attempts by larger models: {e.counts[row, 1:].sum()}",
        f"votes for the leading answer: {e.top[row]:.0f}, for its closest rival: "
        f"{e.second[row]:.0f}, different answers: {e.distinct[row]}",
    ]
    if e.logprobs[row]:
        chance = np.exp(e.logprob_sum[row] / e.logprobs[row])
        lines.append(f"mean probability of the tokens written: {chance:.1f}")
    if e.scores[row]:
        lines.append(f"mean verifier score: {e.score_sum[row] / e.scores[row]:.1f}")
    return "\n".join(lines)


def leads(
    checkpoint: Checkpoint, model: str, test: TraceTable, num_prices: int, repeats: int
) -> Iterator[tuple[str, ...]]:
    """A controller beside the asked model, price by price.

    Args:
        checkpoint: the controller.
        model: directory or hub id of a chat model.
        test: held-out questions.
        num_prices: evenly spaced on a log scale over the trained range.
        repeats: the controller's episodes per question; the model is asked once.
    """
    policy = AskedPolicy(model, checkpoint.models[0])
    config = replace(checkpoint.config, reads_prompt=False)
    bootstrap = Bootstrap(len(test))
    low, high = checkpoint.price_range
    for price in LogUniform(low=low, high=high).grid(num_prices):
        ours = play_checkpoint(checkpoint, test, price, repeats=repeats).utility(price)  # (Q,)
        asked = play(policy, test, config, price=price, repeats=1)
        lead = ours - asked.utility(price)
        yield (
            f"{price:.1e}",
            f"{asked.right.mean():.1%}",
            f"{asked.cost.mean():.0f}",
            f"{asked.utility(price).mean():.3f}",
            f"{ours.mean():.3f}",
            f"{lead.mean():+.3f}",
            "{:+.3f} to {:+.3f}".format(*bootstrap.interval(lead)),
        )


def main(
    model: Annotated[str, typer.Argument(help="Directory or hub id of a chat model.")],
    controller: Annotated[Path, typer.Option(help="Checkpoint.")] = bundled("controller"),
    traces: Annotated[Path, typer.Option(help="Trace set.")] = bundled("traces"),
    num_prices: Annotated[int, typer.Option(help="Evenly spaced on a log scale.")] = 12,
    repeats: Annotated[int, typer.Option(help="Episodes per question and price.")] = 8,
) -> None:
    """Compare a controller with a language model that is asked what to do, on the test split."""
    limit_threads()
    checkpoint = load_checkpoint(controller)
    names = [spec.name for spec in checkpoint.models]
    test = build_table(TraceSet.read(traces), ["test"], names)
    head = ("price", "accuracy", "cost", "utility", "the controller's", "lead of it", "95%")
    print(markdown_table(head, leads(checkpoint, model, test, num_prices, repeats)))


if __name__ == "__main__":
    run_program(lambda: typer.run(main))
