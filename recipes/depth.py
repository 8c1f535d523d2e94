"""What depth is worth beside samples: `python -m recipes.depth`.

The arms of a trace set are depths of one looped model, the first the least. Controllers that may
make one attempt at a depth of their choice, several at the least depth, or several at any depth
learn from the same questions, cross-validated as in `recipes.crossvalidate`, and are held against
every fixed depth and against the one that was best on the questions that they learnt from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import typer

from controller.policy.rules import On, Panel, SelfConsistency
from controller.process.episodes import EpisodeConfig
from controller.process.lockstep import Floats
from envs.traces.format import TraceSet
from recipes.crossvalidate import Fold, deal, folds_of, joined
from recipes.lines import draw_lines
from training.cli.app import main as run_program
from training.compare.models import model_table
from training.compare.simulate import Played, play_checkpoint, play_rules, pool
from training.compare.summary import Bootstrap
from training.learn.config import PPOConfig, TrainConfig
from training.learn.threads import limit_threads
from training.report.show import print_rows

DEPTH, SAMPLES, BOTH = "depth", "samples", "both"
"""What the controllers choose of a question."""
BEST = "best fixed depth"
_SPLIT = "test"


def choices(first: str, ppo: PPOConfig) -> dict[str, TrainConfig]:
    """Trainings by what the controller may choose; `first` is the arm of least depth."""
    return {
        DEPTH: TrainConfig(max_samples=1, sample_widths=(1,), ppo=ppo),
        SAMPLES: TrainConfig(ladder=(first,), ppo=ppo),
        BOTH: TrainConfig(ppo=ppo),
    }


def contest(folds: Mapping[str, Fold], prices: Floats) -> dict[str, list[Played]]:
    """What is played on the questions of a fold, by policy, one entry per price."""
    played = {
        name: [
            pool([play_checkpoint(c, fold.test[0], price) for c in fold.checkpoints])
            for price in prices
        ]
        for name, fold in folds.items()
    }
    process = cast(EpisodeConfig, folds[BOTH].prepared.process)
    process = replace(process, reads_prompt=False)
    first, most = process.arm_names[0], process.max_samples
    rules: dict[str, Any] = {arm: Panel((arm,), 1) for arm in process.arm_names}
    rules |= {f"{first} x{n}": On(SelfConsistency(n), first, first) for n in {3, most} - {1}}
    tuned, tested = (
        play_rules(list(rules.values()), table, process)
        for table, _ in (folds[BOTH].tuning, folds[BOTH].test)
    )
    played |= {name: [p] * len(prices) for name, p in zip(rules, tested, strict=True)}
    fixed = tuned[: len(process.arm_names)]
    best = [int(np.argmax([p.utility(price).mean() for p in fixed])) for price in prices]
    return played | {BEST: [tested[i] for i in best]}


def main(
    traces: Annotated[Path, typer.Argument(help="Trace set.")] = Path("checkpoints/depth"),
    out: Annotated[Path, typer.Option(help="Trainings.")] = Path("runs/depth"),
    folds: Annotated[int, typer.Option(min=2)] = 2,
    seeds: Annotated[int, typer.Option(min=1)] = 1,
    steps: Annotated[int, typer.Option(help="Of each training; 0: as suit.")] = 20_000,
    num_prices: Annotated[int, typer.Option(min=1)] = 6,
) -> None:
    """Print accuracy by depth and what choosing it is worth, and draw it; run again to resume."""
    limit_threads()
    recorded = TraceSet.read(traces)
    whole = next(deal(recorded, 1, 0))
    shares = model_table(whole, _SPLIT)
    for kind in ("overall", "by level", "by task"):
        rows = [{k: v for k, v in row.items() if "@" not in k or "@1" in k} for row in shares[kind]]
        print_rows(f"right at each depth, {kind}", rows)
    configs = choices(recorded.models()[0].name, PPOConfig(total_steps=steps))
    dealt = list(deal(recorded, folds, 0))
    by_choice = {n: folds_of(dealt, config, out / n, seeds) for n, config in configs.items()}
    prices = by_choice[BOTH][0].prepared.prices.grid(num_prices)
    each = zip(*by_choice.values(), strict=True)
    played = joined([contest(dict(zip(by_choice, fold, strict=True)), prices) for fold in each])
    print_rows("one plan for all questions", plans(played))
    print_rows("utility by price (right, cost)", by_price(played, prices))
    print_rows("mean over the prices, 95%, paired", leads(played, prices))
    draw(played, prices, out / "depth.png")


def plans(played: Mapping[str, Sequence[Played]]) -> list[dict[str, Any]]:
    """Accuracy and cost of what is the same at every price."""
    return [
        {"plan": name, "right": float(rows[0].right.mean()), "cost": f"{rows[0].cost.mean():.0f}"}
        for name, rows in played.items()
        if name not in (DEPTH, SAMPLES, BOTH, BEST)
    ]


def by_price(played: Mapping[str, Sequence[Played]], prices: Floats) -> list[dict[str, Any]]:
    """What the controllers and the best fixed depth have of each price."""
    return [
        {"price": f"{price:.1e}"}
        | {
            name: f"{p.utility(price).mean():.3f} ({p.right.mean():.1%}, {p.cost.mean():.0f})"
            for name in (BEST, DEPTH, SAMPLES, BOTH)
            for p in [played[name][number]]
        }
        for number, price in enumerate(prices)
    ]


def draw(played: Mapping[str, Sequence[Played]], prices: Floats, out: Path) -> None:
    """What a right answer is worth, and how far the controllers lead the best fixed depth then."""
    bootstrap = Bootstrap(len(played[BEST][0].right))
    lines = {
        name: [
            (float(lead.mean()), *bootstrap.interval(lead))
            for price, ours, theirs in zip(prices, played[name], played[BEST], strict=True)
            for lead in [ours.utility(price) - theirs.utility(price)]
        ]
        for name in (DEPTH, SAMPLES, BOTH)
    }
    labels = {"xlabel": "tokens that a right answer is worth", "ylabel": f"lead over {BEST}"}
    draw_lines(out, (1 / prices).tolist(), lines, **labels)


def leads(played: Mapping[str, Sequence[Played]], prices: Floats) -> list[dict[str, Any]]:
    """How far one way to choose is ahead of another, question by question."""
    utility = {
        name: np.mean([p.utility(price) for p, price in zip(rows, prices, strict=True)], 0)
        for name, rows in played.items()
    }  # (Q,) each
    bootstrap = Bootstrap(len(utility[BOTH]))
    fixed = [name for name in played if name not in (DEPTH, SAMPLES, BOTH)]
    pairs = [(DEPTH, other) for other in (*fixed, SAMPLES)]
    pairs += [(SAMPLES, BEST), (BOTH, BEST), (BOTH, DEPTH), (BOTH, SAMPLES)]
    return [
        {"": ours, "over": theirs, "utility": f"{lead.mean():+.4f}"}
        | {"95%": "{:+.4f} to {:+.4f}".format(*bootstrap.interval(lead))}
        for ours, theirs in pairs
        for lead in [utility[ours] - utility[theirs]]
    ]


if __name__ == "__main__":
    run_program(lambda: typer.run(main))
