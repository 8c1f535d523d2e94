"""What each signal is worth, and what one checkpoint for every price costs.

    python -m recipes.ablation runs/bundled --results docs/ABLATION.md

Both by training anew: without a signal the policy has to find out what can be done with the
others, and for one price alone it has nothing else to learn.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from controller.bundled import bundled
from controller.card import markdown_table
from controller.checkpoint import Checkpoint, is_finished, load_checkpoint
from controller.files import write_text
from controller.process.features import COUNTS, TERMS
from controller.process.lockstep import Floats
from envs.reward import LogUniform
from envs.traces.format import TraceSet
from envs.traces.table import build_table
from training.cli.app import main as run_program
from training.cli.flags import Json, RayOptions, with_flags
from training.compare.simulate import play_checkpoint
from training.compare.summary import Bootstrap
from training.learn.config import PPOConfig, TrainConfig
from training.learn.runs import TrainJob, run_job, train_on_cluster
from training.learn.threads import limit_threads
from training.learn.train import prepare, prices_of, suited
from training.record.cluster import Cluster
from training.report.show import command_line
from training.report.view import progress_bar

Progress = Callable[[float, str], None]
"""Told the share of all work that is done, and what is worked on."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A training to compare with the one of all signals and prices.

    Attributes:
        name: of its run directory.
        without: signal that it does not see; None for a specialist.
        price: the one price that it was trained for; None for all.
        config: of its training.
    """

    name: str
    without: str | None
    price: float | None
    config: TrainConfig


def variants(
    config: TrainConfig, groups: Mapping[str, tuple[str, ...]], prices: Sequence[float]
) -> Iterator[Variant]:
    """One without each signal among groups of features, and one specialist for each price."""
    for signal, features in groups.items():
        if signal in (TERMS, COUNTS):
            continue
        ppo = replace(config.ppo, ignored_features=features)
        name = f"without {signal}".replace(" ", "-").replace("'", "")
        yield Variant(name=name, without=signal, price=None, config=replace(config, ppo=ppo))
    for price in prices:
        yield Variant(
            name=f"price-{price:.1e}",
            without=None,
            price=price,
            config=replace(config, prices=(price, price), hide_signals=0.0),
        )


def ablate(
    reference: Path,
    traces: TraceSet,
    config: TrainConfig,
    out: Path,
    *,
    num_specialists: int = 4,
    num_prices: int = 12,
    repeats: int = 8,
    cluster: Cluster | None = None,
    progress: Progress = lambda done, text: None,
) -> dict[str, list[dict[str, Any]]]:
    """Train the variants that are not there yet and compare them on the test split.

    The `reference`, in a directory, was trained on `traces` with `config`; variants go to `out`.
    Specialists are trained for single prices, spread over the range; signals are compared at
    `num_prices`.

    Returns:
        `signals`: per signal the mean utility lost without it; `specialists`: per price the utility
        of specialist and reference, and the share of the specialist's that the reference loses;
        both with a 95% interval.
    """
    checkpoint = load_checkpoint(reference)
    grid = LogUniform(low=checkpoint.price_range[0], high=checkpoint.price_range[1])
    test = build_table(traces, ["test"], [model.name for model in checkpoint.models])
    bootstrap, prices = Bootstrap(len(test)), grid.grid(num_prices)
    # Between the ends: at these a specialist gains from never having seen what lies beyond.
    chosen = grid.grid(num_specialists + 2)[1:-1].tolist()

    def utility(controller: Checkpoint, *prices: float) -> Floats:
        """Mean over some prices, (Q,)."""
        played = [(play_checkpoint(controller, test, p, repeats=repeats), p) for p in prices]
        return np.asarray(np.mean([found.utility(price) for found, price in played], axis=0))

    todo = list(variants(suited(config, traces), checkpoint.granularity.table.groups, chosen))
    paths = {variant.name: (out / variant.name).resolve() for variant in todo}
    jobs = [
        TrainJob(out=paths[variant.name], traces=traces.path.resolve(), config=variant.config)
        for variant in todo
    ]
    _train_all(jobs, traces, cluster, progress)
    full, tables = utility(checkpoint, *prices), dict[str, list[dict[str, Any]]]()
    for variant in todo:
        trained = load_checkpoint(paths[variant.name])
        if variant.price is None:
            lost, kind = full - utility(trained, *prices), "signals"
            row: dict[str, Any] = {"signal": variant.without, "lost": float(lost.mean())}
        else:
            theirs, ours = utility(trained, variant.price), utility(checkpoint, variant.price)
            lost, kind = (theirs - ours) / theirs.mean(), "specialists"
            row = {"price": variant.price, "specialist": float(theirs.mean())}
            row |= {"one for all": float(ours.mean()), "lost": float(lost.mean())}
        tables.setdefault(kind, []).append({**row, "interval": bootstrap.interval(lost)})
    return tables


def _train_all(
    jobs: Sequence[TrainJob], traces: TraceSet, cluster: Cluster | None, progress: Progress
) -> None:
    if cluster is not None:
        train_on_cluster(jobs, cluster)
        return
    todo = [job for job in jobs if not is_finished(job.out)]
    for number, job in enumerate(todo):
        progress(number / len(todo), job.out.name)
        if not number:  # once for all: signals are hidden later, in the network
            whole = prepare(traces, replace(job.config, prices=()))
        run_job(job, replace(whole, prices=prices_of(job.config, whole.process)))


def ablation_markdown(tables: Mapping[str, Sequence[Mapping[str, Any]]], command: str) -> str:
    """The tables of `ablate` for docs/ABLATION.md, and the command that regenerates it."""
    signals = markdown_table(
        ("signal", "mean utility lost without it", "95% interval"),
        (
            (row["signal"], f"{row['lost']:+.4f}", "{:+.4f} to {:+.4f}".format(*row["interval"]))
            for row in tables["signals"]
        ),
    )
    specialists = markdown_table(
        ("price", "specialist's utility", "one checkpoint's", "lost", "95% interval"),
        (
            (
                f"{row['price']:.1e}",
                *(f"{row[name]:.4f}" for name in ("specialist", "one for all")),
                f"{row['lost']:+.2%}",
                "{:+.2%} to {:+.2%}".format(*row["interval"]),
            )
            for row in tables["specialists"]
        ),
    )
    return f"""# What signals and specialists are worth

Test split; each row is a training of its own with the same settings, one seed. Intervals: paired
bootstrap over questions. Regenerate with

    {command}

## Signals

A policy that never sees a signal, over 12 prices. Actions stay: without scores, VERIFY still weighs
the votes.

{signals}

## One checkpoint for every price

Against a policy that was trained for a single price and always has every signal.

{specialists}
"""


@with_flags(RayOptions)
def main(
    controller: Annotated[Path, typer.Argument(help="Checkpoint to compare with.")] = bundled(
        "controller"
    ),
    traces: Annotated[Path, typer.Option(help="Trace set that it was trained on.")] = bundled(
        "traces"
    ),
    out: Annotated[Path, typer.Option(help="Directory for the runs.")] = Path("runs/ablation"),
    steps: Annotated[
        int, typer.Option(help="Environment steps per training.")
    ] = PPOConfig().total_steps,
    num_envs: Annotated[
        int, typer.Option(help="Episodes side by side in each.")
    ] = PPOConfig().num_envs,
    specialists: Annotated[int, typer.Option(help="Trained for one price each.")] = 4,
    repeats: Annotated[int, typer.Option(help="Episodes per question and price.")] = 8,
    results: Annotated[
        Path | None, typer.Option(help="Markdown file to write the results to.")
    ] = None,
    as_json: Json = False,
    *,
    cluster: RayOptions,
) -> None:
    """Train without each signal, and for single prices; run again to resume."""
    limit_threads()
    with progress_bar("training", 1.0) as update:
        tables = ablate(
            controller,
            TraceSet.read(traces),
            TrainConfig(ppo=PPOConfig(total_steps=steps, num_envs=num_envs)),
            out,
            num_specialists=specialists,
            repeats=repeats,
            cluster=cluster.cluster(),
            progress=update,
        )
    text = ablation_markdown(tables, command_line("python -m recipes.ablation"))
    if results is not None:
        write_text(results, text)
    print(json.dumps(tables, indent=1) if as_json else text)


if __name__ == "__main__":
    run_program(lambda: typer.run(main))
