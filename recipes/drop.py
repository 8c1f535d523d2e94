"""What dropping weak samples early is worth: `python -m recipes.drop`.

Samples of a question are written side by side and looked at every few tokens. A policy that PPO
has taught says how many of them go on, by how likely each is to be right as far as it is written;
it is held, cross-validated, against rules that are tuned on the same questions:

- self-consistency: so many samples, none dropped; and the same, stopped once the vote is settled;
- lowest group confidence: samples are dropped whose worst group of tokens is less likely than that
  of a share of whole ones (after DeepConf, arXiv 2508.15260, by log-probabilities of the tokens
  written, since no others are recorded);
- similar beginnings: of samples that begin alike one goes on (after Slim-SC, without embeddings);
- value of the prefix: samples are dropped that are less likely right than some threshold.

All but plain self-consistency stop once the vote is settled, and may be tuned to drop nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, cast

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import typer
from matplotlib.ticker import PercentFormatter
from sklearn.linear_model import LogisticRegression

from controller.policy.network import PolicyNetwork
from controller.policy.readouts import Network
from controller.process.lockstep import Bools, Floats, chance
from envs.traces.format import TraceSet
from recipes.crossvalidate import deal
from recipes.race import Marks, keep_mask, keeps, strongest
from recipes.races import Races, RaceTable, RaceVectorEnv, read_races, sample_values
from training.cli.app import main as run_program
from training.compare.summary import Bootstrap
from training.learn.config import PPOConfig
from training.learn.threads import limit_threads
from training.ppo import PPO
from training.report.plots import STYLE, log_axis, save_figure
from training.report.show import print_rows

Decide = Callable[[Marks], Bools]
"""Which of the running samples go on, (E, S)."""

ALL, PLAIN, SETTLED, CONFIDENCE, SIMILAR, VALUE, LEARNED = (
    *("all samples", "self-consistency", "stopped once settled", "lowest group confidence"),
    *("similar beginnings", "value of the prefix", "learned"),
)
TRAINING = PPOConfig(total_steps=300_000, hidden_sizes=(64, 64), gae_lambda=1.0)

_WAYS = 2
"""Orders of the samples in which each question is played."""
_FINER = 2
"""Prices, for each that utility is told at, among which the learned policy's is chosen there."""
_WITHIN = 0.01
"""Accuracy that may be lost where tokens are compared at equal accuracy."""


@dataclass(frozen=True)
class Played:
    """Of each question, mean over the orders, (Q,): right, cost, tokens, and KV token-steps."""

    right: Floats
    cost: Floats
    tokens: Floats
    kv: Floats

    def utility(self, price: float) -> Floats:
        """Accuracy less price x cost, (Q,)."""
        return np.asarray(self.right - price * self.cost)


def play(table: RaceTable, decide: Decide, ways: int = _WAYS) -> Played:
    """Play every question in some orders of its samples."""
    count, samples = table.length.shape
    races = Races(table, count * ways)
    first = np.tile(np.arange(ways) * samples // ways, count)
    races.begin(np.arange(count * ways), np.repeat(np.arange(count), ways), first)
    found, left = np.zeros((4, count * ways)), np.arange(count * ways)
    while len(left):
        marks = races.marks()
        over = marks.over
        if over.all() or 2 * over.sum() >= len(over):  # the others go on by themselves
            ends = [races.right(marks), races.cost, races.tokens, races.kv]
            found[:, left[over]] = np.stack(ends)[:, over]
            races, left = races.take(~over), left[~over]
        else:
            races.advance(marks, decide(marks))
    return Played(*found.reshape(4, count, ways).mean(2))


def fit_value(table: RaceTable) -> Network:
    """Log-odds that a running sample will be right, from all samples at all marks."""
    count = len(table.length)
    races, features, right = Races(table, count), [], []
    races.begin(np.arange(count), np.arange(count), np.zeros(count, np.int64))
    while (marks := races.marks()).running.any():
        features.append(marks.sample_features()[marks.running])
        right.append(table.right[marks.running])
        races.advance(marks, marks.running)
    seen, truth = np.concatenate(features), np.concatenate(right)
    mean, scale = seen.mean(0), np.maximum(seen.std(0), 1e-6)
    fitted = LogisticRegression(C=1.0, max_iter=500).fit((seen - mean) / scale, truth)
    numbers = (mean, scale, fitted.coef_.T, fitted.intercept_)
    mean, scale, weight, bias = (np.asarray(x, np.float32) for x in numbers)
    return Network(mean=mean, scale=scale, weights=(weight,), biases=(bias,))


@dataclass(frozen=True)
class Learned:
    """A policy, and the values by which it ranks samples."""

    value: Network
    network: PolicyNetwork

    def at(self, price: float) -> Decide:
        """How it decides at a price."""

        def decide(marks: Marks) -> Bools:
            counts = keeps(marks.running.shape[1])
            values = sample_values(self.value, marks)
            seen = marks.observe(np.full(len(values), price), values)
            choice = self.network.choose(seen, keep_mask(marks, counts) | marks.over[:, None])
            return strongest(marks, values, np.array(counts)[choice])

        return decide


def train(table: RaceTable, config: PPOConfig) -> Learned:
    """Learn from a table's questions."""
    value = fit_value(table)
    ppo = PPO(cast(Any, RaceVectorEnv(table, value, config.num_envs)), config)
    ppo.train()
    return Learned(value, ppo.policy)


def first(count: int, keep: Decide | None = None, *, settles: bool = True) -> Decide:
    """A rule that starts the first `count` samples and then keeps those that `keep` does."""

    def decide(marks: Marks) -> Bools:
        going = marks.running & (np.arange(marks.running.shape[1]) < count)
        if keep is not None and (marks.written > 0).any():
            going &= keep(marks)
        return going & ~marks.settled[:, None] if settles else going

    return decide


def unlike(share: float) -> Decide:
    """Drops those that have this share of their text in common with an earlier one's beginning."""

    def decide(marks: Marks) -> Bools:
        there, kept = marks.running | marks.ended, marks.running.copy()
        for sample in range(1, there.shape[1]):
            before = there[:, :sample] & (marks.ended | kept)[:, :sample]
            kept[:, sample] &= ~((marks.common[:, sample, :sample] >= share) & before).any(1)
        return kept

    return decide


def confident(least: float) -> Decide:
    """Keeps those none of whose groups has a lower mean log-probability."""
    return lambda marks: np.asarray(marks.lowest >= least)


def valuable(value: Network, least: float) -> Decide:
    """Keeps those that are right with this probability at least."""
    return lambda marks: np.asarray(chance(sample_values(value, marks)) >= least)


def rules(table: RaceTable, value: Network) -> dict[str, list[Decide]]:
    """Rules by family, in all settings; thresholds are quantiles over a table's samples."""
    counts = keeps(table.length.shape[1])
    several = [count for count in counts if count >= 4 and count & (count - 1) == 0]
    worst = np.quantile(table.signals[2, :, :, -1], (0.1, 0.25, 0.5, 0.75, 0.9))
    keep: dict[str, list[Decide]] = {
        CONFIDENCE: [confident(least) for least in worst],
        SIMILAR: [unlike(share) for share in (0.5, 0.7, 0.85, 1.0)],
        VALUE: [valuable(value, least) for least in (0.05, 0.1, 0.2, 0.35, 0.5)],
    }
    settled = [first(count) for count in counts]
    return {
        ALL: [first(counts[-1], settles=False)],
        PLAIN: [first(count, settles=False) for count in counts],
        SETTLED: settled,
        **{
            name: [*settled, *(first(count, each) for count in several for each in dropping)]
            for name, dropping in keep.items()
        },
    }


@dataclass(frozen=True)
class Contest:
    """What each family plays on a fold's questions: at each price, and at equal accuracy."""

    by_price: Mapping[str, Sequence[Played]]
    equal: Mapping[str, Played]


def contest(tuning: RaceTable, test: RaceTable, prices: Floats, config: PPOConfig) -> Contest:
    """Learn and tune on some questions, play others."""
    learned = train(tuning, config)
    finer = np.geomspace(prices[0], prices[-1], _FINER * (len(prices) - 1) + 1)
    families = rules(tuning, learned.value) | {LEARNED: [learned.at(p) for p in finer]}
    seen = {decide: play(tuning, decide) for decide in {*chain(*families.values())}}
    target = seen[families[ALL][0]].right.mean() - _WITHIN
    chosen: dict[str, list[Decide]] = {}
    for name, settings in families.items():
        known = [seen[decide] for decide in settings]
        best = [int(np.argmax([p.utility(price).mean() for p in known])) for price in prices]
        right = np.array([p.right.mean() for p in known])
        cost = np.array([p.cost.mean() for p in known])
        cheapest = int(np.argmin(np.where(right >= min(target, right.max()), cost, np.inf)))
        tuned = settings[::_FINER] if name == LEARNED else [settings[n] for n in best]
        chosen[name] = [*tuned, settings[cheapest]]
    played = {decide: play(test, decide) for decide in {*chain(*chosen.values())}}
    by_price = {name: [played[d] for d in decides[:-1]] for name, decides in chosen.items()}
    equal = {name: played[decides[-1]] for name, decides in chosen.items()}
    return Contest(by_price, equal)


def pooled(parts: Sequence[Played]) -> Played:
    """All folds' questions."""
    return Played(*(np.concatenate([getattr(p, name) for p in parts]) for name in vars(parts[0])))


def equal_rows(equal: Mapping[str, Played], bootstrap: Bootstrap) -> list[dict[str, Any]]:
    """Tokens and KV token-steps of plain self-consistency's, at its accuracy, with 95%."""
    base = equal[PLAIN]

    def share(ours: Floats, theirs: Floats) -> str:
        drawn = (bootstrap.weights @ ours) / (bootstrap.weights @ theirs)
        low, high = np.quantile(drawn, (0.025, 0.975))
        return f"{ours.mean() / theirs.mean():.0%} ({low:.0%} to {high:.0%})"

    return [
        {
            "policy": name,
            "right": f"{p.right.mean():.1%}",
            "lead": "{:+.1%} ({:+.1%} to {:+.1%})".format(
                (p.right - base.right).mean(), *bootstrap.interval(p.right - base.right)
            ),
            "tokens": f"{p.tokens.mean():.0f}",
            "of plain": share(p.tokens, base.tokens),
            "KV token-steps": f"{p.kv.mean():.0f}",
            "KV of plain": share(p.kv, base.kv),
        }
        for name, p in equal.items()
    ]


def lead_rows(
    played: Mapping[str, Sequence[Played]], prices: Floats, bootstrap: Bootstrap
) -> list[dict[str, Any]]:
    """Mean utility over the prices, and the lead of the learned policy, paired, 95%."""
    utility = {
        name: np.mean([p.utility(price) for p, price in zip(rows, prices, strict=True)], 0)
        for name, rows in played.items()
    }
    return [
        {"policy": name, "utility": f"{own.mean():.4f}", "learned leads by": f"{lead.mean():+.4f}"}
        | {"95%": "{:+.4f} to {:+.4f}".format(*bootstrap.interval(lead))}
        for name, own in utility.items()
        for lead in [utility[LEARNED] - own]
    ]


def draw(played: Mapping[str, Sequence[Played]], out: Path) -> None:
    """Accuracy against tokens, and against KV token-steps, of what each family plays by price."""
    matplotlib.use("agg")
    with plt.rc_context(fname=STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True)
        for axis, measure, label in zip(
            axes, ("tokens", "kv"), ("tokens", "KV token-steps"), strict=True
        ):
            for (name, rows), marker in zip(played.items(), "X*osD^v", strict=True):
                points = sorted({(getattr(p, measure).mean(), p.right.mean()) for p in rows})
                style = "k-" if name == LEARNED else "-"
                axis.plot(*zip(*points, strict=True), style, marker=marker, alpha=0.8, label=name)
            axis.set(xlabel=f"mean {label} a question")
            log_axis(axis)
        axes[0].set_ylabel("right")
        axes[0].yaxis.set_major_formatter(PercentFormatter(1.0))
        axes[0].legend(fontsize=8)
        save_figure(figure, out)


def main(
    traces: Annotated[Path, typer.Argument(help="Trace set with running marks.")] = Path(
        "checkpoints/drop"
    ),
    out: Annotated[Path, typer.Option(help="Picture.")] = Path("runs/drop.png"),
    folds: Annotated[int, typer.Option(min=2)] = 2,
    steps: Annotated[int, typer.Option(min=1, help="Of each training.")] = TRAINING.total_steps,
    num_prices: Annotated[int, typer.Option(min=1)] = 8,
    limit: Annotated[int, typer.Option(help="Use so many questions only; 0: all.")] = 0,
    kv_cost: Annotated[float, typer.Option(help="Of a token held for a step, in tokens.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the trainings.")] = 0,
) -> None:
    """Cross-validate dropping by a learned policy against rules; draw accuracy against costs."""
    limit_threads()
    splits, recorded = ("train", "validation"), TraceSet.read(traces)
    tables = [
        (read_races(part, splits, kv_cost), read_races(part, ("test",), kv_cost))
        for part in deal(recorded, folds, limit)
    ]
    prices = tables[0][0].prices.grid(num_prices)
    config = replace(TRAINING, total_steps=steps, seed=seed)
    found = [contest(tuning, test, prices, config) for tuning, test in tables]
    families = [*found[0].equal]
    played = {
        name: [pooled([c.by_price[name][n] for c in found]) for n in range(num_prices)]
        for name in families
    }
    equal = {name: pooled([c.equal[name] for c in found]) for name in families}
    bootstrap = Bootstrap(len(equal[PLAIN].right))
    title = f"cheapest within {_WITHIN:.0%} of all samples, chosen on the other folds"
    print_rows(title, equal_rows(equal, bootstrap))
    print_rows("mean over the prices", lead_rows(played, prices, bootstrap))
    out.parent.mkdir(parents=True, exist_ok=True)
    draw(played, out)


if __name__ == "__main__":
    run_program(lambda: typer.run(main))
