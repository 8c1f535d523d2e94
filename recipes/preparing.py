"""When preparing pays: `python -m recipes.preparing TRACES --out PNG`.

Policies learn `allot/Session-v0` on contexts of the train split and are held against rules tuned
there, on contexts of the test split. The picture shows how likely they are to prepare, by the
number of questions that are expected, beside the exact break-even.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Protocol, cast

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
import typer
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from controller.bundled import bundled
from controller.policy.network import PolicyNetwork
from controller.process.lockstep import Floats
from envs.sessions.environment import SessionVectorEnv
from envs.sessions.table import (
    ACTIONS,
    LEVELS,
    WAIT,
    Expected,
    Sessions,
    SessionTable,
    read_sessions,
)
from envs.traces.format import TraceSet
from recipes.break_even import ClosedForm, Planned
from training.cli.app import main as run_program
from training.learn.config import PPOConfig
from training.learn.threads import limit_threads
from training.ppo import PPO
from training.report.plots import STYLE, save_figure

# Sessions are short enough to do without bootstrapping.
TRAINING = PPOConfig(total_steps=1_500_000, hidden_sizes=(64, 64), gae_lambda=1.0)

SHOWN = {"predictability": 0.8, "wake_price": 3e-4, "step_price": 1e-4}
"""Of the sessions that are drawn."""
SHARES = (0.1, 0.3, 0.6)
"""Prices while nobody waits, relative to those while somebody does, that are drawn."""

_SESSIONS, _TUNING, _RESAMPLES, _GRID = 20_000, 5_000, 2_000, 81


class Deciding(Protocol):
    """A rule, or a trained policy."""

    def act(self, sessions: Sessions, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        """One allowed action per session, (N,)."""


@dataclass(frozen=True)
class Learned:
    """A trained policy."""

    network: PolicyNetwork

    def act(self, sessions: Sessions, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        """See `Deciding.act`."""
        return self.network.choose(sessions.observe(), mask)

    @torch.no_grad()
    def preparing(self, sessions: Sessions) -> Floats:
        """Probability of any level, (N,), before the first question."""
        seen, mask = torch.from_numpy(sessions.observe()), torch.from_numpy(sessions.mask())
        return np.asarray(1 - self.network.log_probs(seen, mask)[:, WAIT].exp().numpy())


def train(table: SessionTable, config: PPOConfig) -> Learned:
    """Learn from a table's sessions."""
    env = SessionVectorEnv(table, config.num_envs)
    ppo = PPO(cast(Any, env), config)
    ppo.train()
    return Learned(ppo.policy)


def play(table: SessionTable, policy: Deciding, seed: int, count: int = _SESSIONS) -> Floats:
    """Rewards of as many sessions, (N,), the same ones whatever the policy."""
    env = SessionVectorEnv(table, count)
    env.reset(seed=seed)
    rewards, going = np.zeros(count), np.ones(count, bool)
    while going.any():
        _, reward, over, _, _ = env.step(policy.act(env.replay, env.replay.mask()))
        rewards += np.where(going, reward, 0.0)
        going &= ~over
    return rewards


def rules(exact: ClosedForm, table: SessionTable) -> dict[str, Planned]:
    """Rules to beat, tuned on a table's sessions; each answers as the closed form says."""
    never = Planned(exact, WAIT)

    def best(found: Sequence[Planned]) -> Planned:
        return max(found, key=lambda rule: play(table, rule, 1, _TUNING).mean())

    levels = range(1, len(LEVELS) + 1)
    least = itertools.product(levels, range(1, table.most + 1))
    return {
        "never prepare": never,
        "always prepare": best([Planned(exact, level) for level in levels]),
        "prepare if m are expected": best([Planned(exact, level, m) for level, m in least]),
        "exact break-even": Planned(exact),
    }


def interval(table: SessionTable, values: Floats, seed: int = 0) -> tuple[float, float]:
    """95% of the mean of values of sessions (N,), contexts resampled as wholes."""
    context = _contexts(table, len(values))
    sums = np.bincount(context, values, len(table.contexts))
    counts = np.bincount(context, minlength=len(table.contexts))
    drawn = np.random.default_rng(seed).integers(0, len(sums), (_RESAMPLES, len(sums)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def _contexts(table: SessionTable, count: int, seed: int = 2) -> NDArray[np.int64]:
    env = SessionVectorEnv(table, count)
    env.reset(seed=seed)
    return env.replay.context


def crossing(questions: Floats, probability: Floats) -> float:
    """Where a curve first passes one half; inf if it never does."""
    above = np.flatnonzero(probability >= 0.5)
    return float(questions[above[0]]) if len(above) else float("inf")


def curves(
    table: SessionTable, policies: Sequence[Learned], exact: ClosedForm
) -> list[dict[str, Any]]:
    """Probability of preparing by expected questions, for each kind and share of `SHARES`."""
    questions, found = np.linspace(0, table.most, _GRID), []
    for kind, share in itertools.product(range(len(table.kinds)), SHARES):
        contexts = np.flatnonzero(table.kind == kind)
        grid = {
            "questions": np.repeat(questions, len(contexts)),
            "context": np.tile(contexts, _GRID),
            "idle_price": share * SHOWN["wake_price"],
            **SHOWN,
        }
        env = SessionVectorEnv(table, _GRID * len(contexts), grid)
        env.reset(seed=0)
        shown = np.mean([policy.preparing(env.replay) for policy in policies], 0)
        told = {name: np.full(1, value) for name, value in SHOWN.items()}
        expected = Expected(
            questions=np.ones(1), idle_price=share * told["wake_price"], **cast(Any, told)
        )
        curve = shown.reshape(_GRID, -1).mean(1)
        found.append(
            {
                "kind": table.kinds[kind],
                "share": share,
                "questions": questions,
                "probability": curve,
                "exact": float(exact.break_even(np.array([kind]), expected).min()),
                "learned": crossing(questions, curve),
            }
        )
    return found


def draw(found: Sequence[dict[str, Any]], out: Path) -> None:
    """One panel a kind of context: curves, and the exact break-even as dashed lines."""
    kinds = list(dict.fromkeys(one["kind"] for one in found))
    matplotlib.use("agg")
    with plt.rc_context(fname=STYLE):
        figure, axes = plt.subplots(1, len(kinds), figsize=(10, 3.4), sharey=True, squeeze=False)
        for axis, kind in zip(axes[0], kinds, strict=True):
            _panel(axis, [one for one in found if one["kind"] == kind], kind)
        axes[0, 0].set_ylabel("probability of preparing")
        axes[0, len(kinds) // 2].plot([], [], "k--", linewidth=1, label="exact")
        axes[0, len(kinds) // 2].legend(
            title="idle price / wake price", fontsize=8, loc="upper left"
        )
        save_figure(figure, out)


def _panel(axis: Axes, curves: Sequence[dict[str, Any]], kind: str) -> None:
    for number, one in enumerate(curves):
        colour = f"C{number}"
        axis.plot(one["questions"], one["probability"], color=colour, label=f"{one['share']:g}")
        if one["exact"] <= one["questions"][-1]:
            axis.axvline(one["exact"], color=colour, linestyle="--", linewidth=1)
    axis.set(title=kind, xlabel="expected questions", ylim=(-0.03, 1.03))
    axis.yaxis.set_major_formatter(PercentFormatter(1.0))


def report(
    policies: Sequence[Learned], learned_from: SessionTable, held_out: SessionTable, out: Path
) -> None:
    """Print how policies do against rules, and where they begin to prepare; draw the latter."""
    exact = ClosedForm(learned_from)
    learned = np.mean([play(held_out, policy, 2) for policy in policies], 0)
    print(f"{'policy':<28}{'reward':>8}  lead of the learned over it, 95%")
    print(f"{'learned':<28}{learned.mean():8.4f}")
    for name, rule in rules(exact, learned_from).items():
        told = f" {ACTIONS[rule.level]}" if rule.level else ""
        told += f", m = {rule.least:g}" if rule.least else ""
        played = play(held_out, rule, 2)
        low, high = interval(held_out, learned - played)
        lead = (learned - played).mean()
        print(f"{name:<28}{played.mean():8.4f}  {lead:+.4f} ({low:+.4f} to {high:+.4f}){told}")
    found = curves(held_out, policies, exact)
    for one in found:
        print(
            "{kind}, idle share {share:g}: exact {exact:.2f}, learned {learned:.2f}".format(**one)
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    draw(found, out)


def main(
    traces: Annotated[
        Path, typer.Argument(help="Trace set of sessions.", metavar="TRACES")
    ] = bundled("sessions"),
    out: Annotated[Path, typer.Option(help="Picture.")] = Path("runs/preparing.png"),
    seeds: Annotated[int, typer.Option(min=1, help="Policies that are trained.")] = 3,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each.")] = TRAINING.total_steps,
) -> None:
    """Train policies, hold them against rules, draw when they prepare."""
    limit_threads()
    learned_from, held_out = (read_sessions(TraceSet.read(traces), [s]) for s in ("train", "test"))
    policies = [
        train(learned_from, replace(TRAINING, total_steps=steps, seed=seed))
        for seed in range(seeds)
    ]
    report(policies, learned_from, held_out, out)


if __name__ == "__main__":
    run_program(lambda: typer.run(main))
