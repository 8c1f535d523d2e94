"""Prompts chosen together with compute, or one after the other: `python -m recipes.prompts TRACES`.

Arms that share a model and differ in their prompts are told by `trace.json`: they have the same
`digest`, `path` or `server`, and the same `body`. Of a set whose attempts have a column
`variant`, with the prompt's name, each model's variants become arms. Questions are dealt into
folds by their ids; on each fold play, from the others,

- the controller for all arms, and the rule for all arms that did best at each price;
- the same for each model's best prompt alone: the one that is most often right at one attempt;
- the rule that did best on the prompts that are worth most, at one attempt and each price.

Run again to go on. The set of arms lies in OUT/arms, for `allot train`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import typer
from rich.console import Console

from controller.errors import TraceFormatError
from controller.files import write_json
from controller.process.episodes import EpisodeConfig
from controller.process.lockstep import Floats
from envs.traces.format import MANIFEST, VARIANT, TraceSet, tables_digest, write_table
from envs.traces.table import TraceTable, build_table
from recipes.crossvalidate import (
    CHOSEN,
    CONTROLLER,
    MEAN,
    Fold,
    as_table,
    cross_validate,
    deal,
    folds_of,
    joined,
    summarise,
    written,
)
from recipes.lines import draw_lines
from training.cli.app import main as run_program
from training.compare.simulate import Played
from training.learn.config import PPOConfig, TrainConfig
from training.learn.threads import limit_threads

SAME = ("model", "digest", "path", "server")
"""What two arms of one model have in common in `trace.json`; the first that is there counts."""

TOGETHER, PROMPT_FIRST, WORTH_MOST = "together", "prompt first", "worth most"


def separate(traces: TraceSet, out: Path, first: int = 0) -> TraceSet:
    """The same set with an arm for each model and prompt, without revisions.

    The set has a column `variant`, or arms that are told apart already; the new one is written into
    `out` unless it is there. Questions that some arm has not tried are left out, and so are all but
    the `first` attempts of each arm; 0 keeps all. Agreement between prompts counts as that between
    families.
    """
    if (out / MANIFEST).exists():
        return TraceSet.read(out)
    rows = traces.attempts.filter(pc.not_equal(traces.attempts["action"], "revise"))
    known = traces.manifest["models"]
    models = {model: dict(known.get(model, {})) for model in traces.model_rows}
    if VARIANT in rows.column_names:
        told = rows.select(["model", VARIANT]).to_pandas()
        told["arm"] = (told["model"] + ":" + told[VARIANT]).fillna(told["model"])
        of = dict(zip(told["arm"], told["model"], strict=True))
        models = {arm: models[of[arm]] | {"family": arm, "model": of[arm]} for arm in of}
        rows = _named(rows, told["arm"])
    frame = rows.select(["question_id", "model"]).to_pandas()
    tried = frame.groupby("question_id")["model"].nunique()
    whole = tried.index[tried == len(models)]
    kept = frame.groupby(["question_id", "model"]).cumcount() < (first or len(frame))
    rows = rows.filter(pa.array(kept & frame["question_id"].isin(whole)))
    asked = traces.questions["question_id"].to_pandas().isin(whole)
    out.mkdir(parents=True, exist_ok=True)
    write_table(out / "questions.parquet", traces.questions.filter(pa.array(asked)))
    write_table(out / "attempts.parquet", rows)
    write_json(out / MANIFEST, {**traces.manifest, "models": models, "digest": tables_digest(out)})
    return TraceSet.read(out)


def prompts_of(traces: TraceSet) -> dict[str, list[str]]:
    """The arms of each model, which is called by the first of them; small ones first.

    Raises:
        TraceFormatError: no two arms share a model, or there are only these two.
    """
    told = {arm: traces.manifest["models"].get(arm, {}) for arm in traces.model_rows}
    groups: dict[tuple[Any, str], list[str]] = {}
    for arm in sorted(told, key=lambda arm: told[arm].get("tier") != "small"):
        model = next((told[arm][name] for name in SAME if told[arm].get(name)), arm)
        groups.setdefault((model, str(told[arm].get("body"))), []).append(arm)
    if len(traces.model_rows) < 3 or len(groups) == len(traces.model_rows):
        raise TraceFormatError(
            f"{traces.path}: expected three arms or more, some with another prompt for the same "
            f"model, found {sorted(traces.model_rows)}; record several prompts by `allot record "
            f"--menu`, or name each attempt's in a column {VARIANT!r}"
        )
    return {arms[0]: arms for arms in groups.values()}


def best_prompts(traces: TraceSet, groups: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The arm of each model that is most often right at one attempt, outside of the test split."""
    arms = [arm for group in groups.values() for arm in group]
    table = build_table(traces, ("train", "validation"), arms)
    right = dict(zip(arms, table.success_rates.mean(0), strict=True))
    return {model: max(group, key=right.__getitem__) for model, group in groups.items()}


def worth_most(fold: Fold, groups: Mapping[str, Sequence[str]], price: float) -> dict[str, str]:
    """The arm of each model that is worth most at one attempt, outside of the test split."""
    process, (table, _) = fold.prepared.process, fold.tuning
    assert isinstance(process, EpisodeConfig)
    assert isinstance(table, TraceTable)
    read, written = table.prompt_tokens.mean(0), np.array(process.mean_completion_tokens)
    costs = process.token_cost * (process.prompt_share * read + written)
    worth = dict(zip(process.arm_names, table.success_rates.mean(0) - price * costs, strict=True))
    return {model: max(group, key=worth.__getitem__) for model, group in groups.items()}


def rules_on_worth_most(
    fold: Fold, groups: Mapping[str, Sequence[str]], prices: Floats
) -> list[Played]:
    """What the rule plays that was chosen at each price for the prompts that are worth most."""
    of = [tuple(worth_most(fold, groups, price).items()) for price in prices]
    played: dict[int, Played] = {}
    for best in dict.fromkeys(of):
        places = [place for place, one in enumerate(of) if one == best]
        config = replace(fold.config, ladder=tuple(groups))
        own = replace(fold, traces=alone(fold.traces, dict(best)), config=config, seeds=0)
        rules = own.screened(prices[places]).rules
        played |= dict(zip(places, own.contest(rules, prices[places])[CHOSEN], strict=True))
    return [played[place] for place in range(len(prices))]


def alone(traces: TraceSet, best: Mapping[str, str]) -> TraceSet:
    """The set with one arm for each model, which has the model's name."""
    of = {arm: model for model, arm in best.items()}
    names = traces.attempts["model"].to_pandas().map(of)
    rows = _named(traces.attempts, names).filter(pa.array(names.notna()))
    models = {model: traces.manifest["models"][arm] for model, arm in best.items()}
    return replace(traces, manifest={**traces.manifest, "models": models}, stored=ds.dataset(rows))


def _named(rows: pa.Table, models: pd.Series) -> pa.Table:
    """Attempts with other names for their models, (n,)."""
    place = rows.schema.get_field_index("model")
    return rows.set_column(place, "model", pa.array(models, pa.string(), from_pandas=True))


def compare(
    dealt: Sequence[TraceSet], out: Path, config: TrainConfig, seeds: int, num_prices: int
) -> tuple[Floats, pa.Table]:
    """Prices, and what every policy played: see `recipes.crossvalidate.PLAYED`."""
    groups = prompts_of(dealt[0])
    menus = {
        TOGETHER: (dealt, [arm for group in groups.values() for arm in group]),
        PROMPT_FIRST: ([alone(part, best_prompts(part, groups)) for part in dealt], groups),
    }
    parts, learnt = [], dict[str, list[Fold]]()
    for name, (sets, ladder) in menus.items():
        config = replace(config, ladder=tuple(ladder))
        folds = folds_of(sets, config, out / name.replace(" ", "-"), seeds)
        prices, played = cross_validate(folds, num_prices)
        trained = folds[0].prepared.prices
        config = replace(config, prices=(trained.low, trained.high))
        for policy in (CONTROLLER, CHOSEN):
            rows = played.filter(pc.equal(played["policy"], policy)).drop_columns("policy")
            label = pa.repeat(f"{policy}, {name}", len(rows))
            parts.append(rows.add_column(0, "policy", label))
        learnt[name] = folds
    together, label = learnt[TOGETHER], f"{CHOSEN}, {WORTH_MOST}"
    worth = joined([{label: rules_on_worth_most(fold, groups, prices)} for fold in together])
    asked = [question for fold in together for question in fold.test[0].question_ids]
    return prices, pa.concat_tables([*parts, as_table(worth, prices, asked)])


def main(
    traces: Annotated[Path, typer.Argument(help="Trace set.")],
    out: Annotated[Path, typer.Option(help="Arms, trainings, and what was played.")],
    folds: Annotated[int, typer.Option(min=2)] = 5,
    seeds: Annotated[int, typer.Option(min=1)] = 1,
    first: Annotated[int, typer.Option(help="Use so many attempts of each arm; 0: all.")] = 0,
    limit: Annotated[int, typer.Option(help="Use so many questions only; 0: all.")] = 0,
    steps: Annotated[int, typer.Option(help="Of each training; 0: as suit.")] = 0,
    num_prices: Annotated[int, typer.Option(min=1)] = 12,
) -> None:
    """Cross-validate choosing prompts with compute against choosing prompts first."""
    limit_threads()
    arms = separate(TraceSet.read(traces), out / "arms", first)
    dealt = list(deal(arms, folds, limit))
    groups = prompts_of(arms)
    config = TrainConfig(ppo=PPOConfig(total_steps=steps))
    prices, played = compare(dealt, out, config, seeds, num_prices)
    table, console = written(prices, played, out), Console(width=1000)
    for n, part in enumerate(dealt):
        best = ", ".join(best_prompts(part, groups).values())
        console.print(f"fold {n}, best prompts: {best}", highlight=False)
    console.print(table, markup=False, highlight=False)
    draw(summarise(prices, played), out / "prompts.png")


def draw(rows: Sequence[Mapping[str, Any]], out: Path) -> None:
    """What a right answer is worth, and how far the controller for all arms leads then."""
    priced = [row for row in rows if row["price"] != MEAN]
    others = [name for name in rows[0] if name.startswith("over ")]
    lines = {name: [row[name] for row in priced] for name in others}
    labels = {"xlabel": "cost that a right answer is worth", "ylabel": f"lead of {TOGETHER}"}
    draw_lines(out, [1 / row["price"] for row in priced], lines, **labels)


if __name__ == "__main__":
    run_program(lambda: typer.run(main))
