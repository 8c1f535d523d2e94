"""Controllers against rules on a trace set, cross-validated: `python -m recipes.crossvalidate`.

The questions are dealt into folds by their ids. Each fold is played by controllers that learnt
from the others with the defaults of `allot train`, by the rule that did best on these others at
each price, and by a plan selector that learnt from them. The best rule in hindsight is chosen on
the very questions that it is played on, all folds together. Run again to go on.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from numpy.typing import NDArray
from rich.console import Console

from controller.card import markdown_table
from controller.checkpoint import AnyCheckpoint
from controller.files import write_atomically, write_text
from controller.policy.rules import Rule
from controller.process.episodes import EpisodeConfig
from controller.process.lockstep import Floats
from envs.granularity import AnyTable
from envs.traces.format import TraceSet
from envs.traces.table import TraceTable, build_table
from training.cli.app import main as run_program
from training.compare.simulate import Played, outlook, play_checkpoint, play_rules, pool, select
from training.compare.summary import Bootstrap
from training.compare.yardsticks import select_plans
from training.learn.calibration import cross_calibrated
from training.learn.config import PPOConfig, TrainConfig
from training.learn.floor import Rulebook
from training.learn.threads import limit_threads
from training.learn.train import ControllerTraining, Prepared, prepare

PLAYED = "played.parquet"
"""Every question at every price by every policy: what was right and what that cost."""

CONTROLLER, CHOSEN, SELECTOR, HINDSIGHT = "controller", "chosen rule", "plan selector", "hindsight"
MEAN = "mean"
"""Of all prices, in the place of one."""

_REPEATS = 8


@dataclass(frozen=True, kw_only=True)
class Fold:
    """Questions that are played, and what learns from the others.

    Attributes:
        traces: whose test split is the fold.
        config: of the training.
        out: directory of the fold; one for each seed in it.
        seeds: trainings; 0 for rules alone.
    """

    traces: TraceSet
    config: TrainConfig
    out: Path
    seeds: int

    @cached_property
    def prepared(self) -> Prepared:
        """What training starts from."""
        return prepare(self.traces, self.config)

    @cached_property
    def checkpoints(self) -> list[AnyCheckpoint]:
        """A trained controller for each seed."""
        return [self._trained(seed) for seed in range(self.seeds)]

    def _trained(self, seed: int) -> AnyCheckpoint:
        config = replace(self.config, ppo=replace(self.config.ppo, seed=seed))
        out = self.out / f"seed{seed}"
        return ControllerTraining(self.traces, config, out, self.prepared).run()

    @cached_property
    def tuning(self) -> tuple[AnyTable, Floats | None]:
        """Questions that rules are chosen on, and their outlook by read-outs without them."""
        table, known = self._table("train", "validation")
        learnt, cross_fitted = self.prepared.train.question_ids, self.prepared.train_outlook
        if known is not None and cross_fitted is not None:
            places = {name: place for place, name in enumerate(table.question_ids)}
            known[[places[name] for name in learnt]] = cross_fitted
        process = self.prepared.process
        assert isinstance(process, EpisodeConfig)
        return cross_calibrated(table, process), known

    @cached_property
    def test(self) -> tuple[AnyTable, Floats | None]:
        """The fold's questions and their outlook."""
        return self._table("test")

    def _table(self, *splits: str) -> tuple[TraceTable, Floats | None]:
        names = [model.name for model in self.prepared.models]
        table, difficulty = build_table(self.traces, splits, names), self.prepared.difficulty
        # Rules, unlike a policy, cannot do without an outlook.
        everywhere = difficulty and replace(difficulty, low=None, high=None)
        return table, outlook(everywhere, table)

    def screened(self, prices: Floats) -> Rulebook:
        """Rules that may be the best at some price, by the tuning questions."""
        return Rulebook.screened(self.prepared.process, prices, *self.tuning)

    def play(self, rules: Sequence[Rule], where: tuple[AnyTable, Floats | None]) -> list[Played]:
        """How rules do on the tuning or the test questions."""
        table, known = where
        process = self.prepared.process
        return play_rules(rules, table, process, difficulty=known, repeats=_REPEATS)

    def contest(self, rules: Sequence[Rule], prices: Floats) -> dict[str, list[Played]]:
        """What is played on the fold, by policy, one entry per price; rules by their number."""
        tuned, tested = self.play(rules, self.tuning), self.play(rules, self.test)
        best = [int(np.argmax([p.utility(price).mean() for p in tuned])) for price in prices]
        played = {CHOSEN: [tested[i] for i in best]}
        if self.checkpoints:
            pooled = [
                pool([play_checkpoint(c, self.test[0], price) for c in self.checkpoints])
                for price in prices
            ]
            played = {CONTROLLER: pooled, **played}
        words = [table.features("words") for table, _ in (self.tuning, self.test)]
        if words[0] is not None and words[1] is not None:
            choice, _ = select_plans(words[0], tuned, words[1], prices)
            played[SELECTOR] = [select(tested, row) for row in choice]
        return played | {str(number): [p] * len(prices) for number, p in enumerate(tested)}


def deal(traces: TraceSet, folds: int, limit: int) -> Iterator[TraceSet]:
    """A trace set for each fold, its questions in the test split, a fifth of the others validation.

    The set's own splits do not count; a limit of 0 takes all questions.
    """
    hashes = hashes_of(traces)
    used = np.zeros(len(hashes), bool)
    used[np.argsort(hashes, kind="stable")[: limit or len(hashes)]] = True
    for fold in range(folds):
        yield dealt_by(traces, used & (hashes % folds == fold), used)


def hashes_of(traces: TraceSet) -> NDArray[np.int64]:
    """A number of each question by its id, by which questions are dealt."""
    names = traces.questions["question_id"].to_pylist()
    return np.array([zlib.crc32(name.encode()) for name in names])


def dealt_by(traces: TraceSet, tested: NDArray[np.bool_], used: NDArray[np.bool_]) -> TraceSet:
    """The set with some questions tested, and a fifth of the others that are used validation."""
    learnt = np.where(hashes_of(traces) // 1000 % 5 == 0, "validation", "train")
    split = pa.array(np.where(tested, "test", np.where(used, learnt, "unused")))
    place = traces.questions.schema.get_field_index("split")
    return replace(traces, questions=traces.questions.set_column(place, "split", split))


def folds_of(dealt: Iterable[TraceSet], config: TrainConfig, out: Path, seeds: int) -> list[Fold]:
    """Folds that learn alike, each in a directory of its own."""
    return [
        Fold(traces=part, config=config, out=out / f"fold{n}", seeds=seeds)
        for n, part in enumerate(dealt)
    ]


def joined(contests: Sequence[Mapping[str, Sequence[Played]]]) -> dict[str, list[Played]]:
    """What was played on the questions of all folds, by policy, one entry per price."""
    return {
        name: [
            Played.of(parts, np.concatenate)
            for parts in zip(*(contest[name] for contest in contests), strict=True)
        ]
        for name in contests[0]
    }


def cross_validate(folds: Sequence[Fold], num_prices: int) -> tuple[Floats, pa.Table]:
    """Prices, and what `PLAYED` holds."""
    prices = folds[0].prepared.prices.grid(num_prices)
    books = [fold.screened(prices) for fold in folds]
    rules = list(dict.fromkeys(rule for book in books for rule in book.rules))
    by_policy = joined([fold.contest(rules, prices) for fold in folds])
    questions = [question for fold in folds for question in fold.test[0].question_ids]
    in_rules = [by_policy.pop(str(number)) for number in range(len(rules))]
    by_policy[HINDSIGHT] = [
        max((rule[p] for rule in in_rules), key=lambda row: float(row.utility(price).mean()))
        for p, price in enumerate(prices)
    ]
    return prices, as_table(by_policy, prices, questions)


def as_table(
    by_policy: Mapping[str, Sequence[Played]], prices: Floats, questions: Sequence[str]
) -> pa.Table:
    """What `PLAYED` holds of policies that have played at each price."""
    columns = [
        pa.table(
            {
                "policy": pa.repeat(name, len(questions)),
                "price": pa.repeat(price, len(questions)),
                "question_id": questions,
                "right": row.right,
                "cost": row.cost,
            }
        )
        for name, rows in by_policy.items()
        for price, row in zip(prices, rows, strict=True)
    ]
    return pa.concat_tables(columns)


def summarise(prices: Floats, played: pa.Table) -> list[dict[str, Any]]:
    """A row for each price and one for their mean: utilities, and the first policy's leads.

    Leads are over every other policy, with paired 95% intervals over questions.
    """
    names = list(dict.fromkeys(played["policy"].to_pylist()))
    shape = len(names), len(prices), -1
    right, cost = (played[name].to_numpy().reshape(shape) for name in ("right", "cost"))
    utility = right - prices[:, None] * cost  # (policies, P, Q)
    bootstrap = Bootstrap(utility.shape[2])
    rows = []
    for price, values in zip(
        [*prices, MEAN], [*utility.swapaxes(0, 1), utility.mean(1)], strict=True
    ):
        row: dict[str, Any] = {"price": price}
        row |= {name: float(of.mean()) for name, of in zip(names, values, strict=True)}
        for name, of in zip(names[1:], values[1:], strict=True):
            lead = values[0] - of
            row[f"over {name}"] = float(lead.mean()), *bootstrap.interval(lead)
        rows.append(row)
    return rows


def written(prices: Floats, played: pa.Table, out: Path) -> str:
    """The summary as a table, which goes to a directory with what was played."""
    write_atomically(out / PLAYED, lambda path: pq.write_table(played, path))
    table = as_markdown(summarise(prices, played))
    write_text(out / "table.md", table + "\n")
    return table


def figure(value: float | tuple[float, ...], digits: int) -> str:
    """A utility, or a lead with its interval."""
    if not isinstance(value, tuple):
        return f"{value:.{digits}f}"
    lead, low, high = (f"{number:+.{digits}f}" for number in value)
    return f"{lead} ({low} to {high})"


def as_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The summary as a table."""

    def cells(row: dict[str, Any]) -> Iterator[str]:
        price, digits = row["price"], 4 if row["price"] == MEAN else 3
        yield MEAN if price == MEAN else f"{price:.1e}"
        yield from (figure(value, digits) for value in list(row.values())[1:])

    return markdown_table([*rows[0]], [[*cells(row)] for row in rows])


Ladder = Annotated[str, typer.Option(help="Models, comma-separated; default: the set's.")]
Unit = Annotated[Literal["flops", "dollars", "seconds"], typer.Option(help="Of costs.")]
Steps = Annotated[int, typer.Option(help="Of each training; 0: as suit.")]


def config_of(ladder: str, unit: Literal["flops", "dollars", "seconds"], steps: int) -> TrainConfig:
    """Defaults but for what the options of a recipe say."""
    named = tuple(name for name in ladder.split(",") if name)
    return TrainConfig(ladder=named, unit=unit, ppo=PPOConfig(total_steps=steps))


def main(
    traces: Annotated[Path, typer.Argument(help="Trace set.")],
    out: Annotated[Path, typer.Option(help="Trainings, and what was played.")],
    folds: Annotated[int, typer.Option(min=2)] = 5,
    seeds: Annotated[int, typer.Option(min=1)] = 1,
    ladder: Ladder = "",
    limit: Annotated[int, typer.Option(help="Use so many questions only; 0: all.")] = 0,
    unit: Unit = "flops",
    steps: Steps = 0,
    num_prices: Annotated[int, typer.Option(min=1)] = 12,
) -> None:
    """Cross-validate controllers and rules on one trace set; run again to resume."""
    limit_threads()
    config, dealt = config_of(ladder, unit, steps), deal(TraceSet.read(traces), folds, limit)
    prices, played = cross_validate(folds_of(dealt, config, out, seeds), num_prices)
    Console(width=1000).print(written(prices, played, out), markup=False, highlight=False)


if __name__ == "__main__":
    run_program(lambda: typer.run(main))
