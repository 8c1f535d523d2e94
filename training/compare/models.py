"""How often models are right, and what an attempt by each costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from controller.backends.architecture import Architecture, Hardware
from controller.backends.places import ModelPlace
from controller.backends.prices import listed
from controller.errors import ConfigError
from controller.process.actions import REVISING
from controller.process.episodes import calibrated, score_weight
from controller.process.lockstep import Bools, Floats
from controller.process.types import Rates
from envs.traces.derive import cost_model, derive_config, known_rates
from envs.traces.format import TraceSet
from envs.traces.table import TraceTable, build_table
from training.learn.calibration import auroc, expected_calibration_error, with_calibration

FEWEST = 5
"""Questions of a level or task below which shares would say little."""


def model_table(traces: TraceSet, split: str) -> dict[str, list[dict[str, Any]]]:
    """Rows of shares, 0..1, by level, by task and overall, of each model of the default ladder.

    Levels, tasks and both together with fewer than `FEWEST` questions are left out, and where there
    is one alone, as of questions of unknown level.

    pass@1, and where there are more than two attempts majority and pass@k. Where the traces hold
    revisions: how often a revision fixes a wrong attempt, against how often a fresh attempt at the
    same question is right, and how often it breaks a right one. Where they hold verifier scores:
    AUROC, calibration error, and the accuracy of choosing among all small attempts by score; where
    an arm judges, of the attempts of each arm, as calibrated on the train split.
    """
    models = traces.models()
    table = build_table(traces, [split], [model.name for model in models])
    columns: dict[str, Floats] = {}
    for model in models:
        columns |= _model_columns(table, model.rung, model.name)
    datasets = np.array(table.datasets)
    everything = np.ones(len(table), bool)

    def row(name: str, value: Any, where: Bools) -> dict[str, Any]:
        shares = {column: float(values[where].mean()) for column, values in columns.items()}
        return {name: value, "questions": int(where.sum()), **shares}

    def rows(name: str, groups: Mapping[Any, Bools]) -> list[dict[str, Any]]:
        held = [row(name, v, where) for v, where in groups.items() if where.sum() >= FEWEST]
        return held if len(groups) > 1 else []

    levels = {int(v): table.levels == v for v in np.unique(table.levels)}
    tasks = {str(v): datasets == v for v in np.unique(datasets)}
    both = {f"{t} {v}": tasks[t] & levels[v] for t in tasks for v in levels}
    tables = {
        "overall": [row("split", split, everything)],
        "by level": rows("level", levels),
        "by task": rows("task", tasks),
        "by task and level": rows("task and level", both),
    }
    if table.revisers:
        tables["revising"] = _revising(table)
    if traces.verifier:
        tables["verifier"] = _judged(traces, table)
    elif not np.isnan(table.attempts["verifier_score"]).all():
        tables["verifier"] = [_verifier(table)]
    return {kind: rows for kind, rows in tables.items() if rows}


def _revising(table: TraceTable) -> list[dict[str, Any]]:
    length = int(table.stream_length[:, 0].min())
    parents = table.stream[:, 0, :length]  # (Q, k)
    children, number = np.moveaxis(table.children[parents, 0], -1, 0)  # by the first that revises
    right, revised, child = table.right(parents), number > 0, table.right(children)
    # On the same question, without the attempt itself.
    fresh = (right.sum(1, keepdims=True) - right) / max(length - 1, 1)
    rows = []
    for level in (None, *np.unique(table.levels)):
        where = (
            revised
            & (np.ones(len(table), bool) if level is None else table.levels == level)[:, None]
        )
        wrong, kept = where & ~right, where & right
        if not (wrong.any() and kept.any()):
            continue  # shares of none
        fixed, again = child[wrong].mean(), fresh[wrong].mean()
        rows.append(
            {
                "level": "all" if level is None else int(level),
                "revised": int(where.sum()),
                "fixes a wrong attempt": float(fixed),
                "a fresh one is right": float(again),
                "breaks a right attempt": float(1 - child[kept].mean()),
            }
        )
    return rows


def _judged(traces: TraceSet, table: TraceTable) -> list[dict[str, Any]]:
    """How good the judgements of an arm are, of attempts by each; without a text there is none."""
    models, arms = traces.models(), traces.arms()
    train = build_table(traces, ["train"], [model.name for model in models])
    _, process = with_calibration(train, derive_config(train, models, arms))
    attempts = table.attempts.copy()
    said = attempts["verifier_score"].astype(np.float64)
    attempts["verifier_score"] = calibrated(process.verifier_calibration, said, attempts["rung"])
    meant, rows = replace(table, attempts=attempts), []
    for arm in arms:
        raw, known = (_verifier(each, arms.index(arm)) for each in (table, meant))
        rows.append({"attempts by": arm.name, "as said": raw["calibration error"], **known})
    return rows


def _verifier(table: TraceTable, rung: int = 0) -> dict[str, Any]:
    length = int(table.stream_length[:, rung].min())
    attempts = table.stream[:, rung, :length]  # (Q, k)
    right, score, answers = (
        table.right(attempts),
        table.attempts["verifier_score"][attempts].astype(np.float64),
        table.attempts["answer"][attempts],
    )
    known, score = ~np.isnan(score), np.nan_to_num(score)
    chosen = answers[:, :, None] == np.arange(table.num_answers)  # (Q, k, K)
    winner = (chosen * score_weight(score)[:, :, None]).sum(1).argmax(1)
    questions = np.arange(len(table))
    return {
        "attempts": int(known.sum()),
        "AUROC": auroc(score[known], right[known]),
        "calibration error": expected_calibration_error(score[known], right[known]),
        f"best of {length}": float(right[questions, score.argmax(1)].mean()),
        f"weighted vote of {length}": float(table.answer_correct[questions, winner].mean()),
    }


def _model_columns(table: TraceTable, rung: int, name: str) -> dict[str, Floats]:
    length = int(table.stream_length[:, rung].min())
    places = table.stream[:, rung, :length]  # (Q, k)
    answers, right = table.attempts["answer"][places], table.right(places)
    columns = {f"{name} pass@1": right.mean(1)}
    if length > 2:
        votes = (answers[:, :, None] == np.arange(table.num_answers)).sum(1)  # (Q, K)
        winner = votes.argmax(1)
        majority = table.answer_correct[np.arange(len(table)), winner] & (votes.max(1) > 0)
        columns[f"{name} majority@{length}"] = majority.astype(np.float64)
        columns[f"{name} pass@{length}"] = right.any(1).astype(np.float64)
    return columns


def cost_table(
    traces: TraceSet, ladder: Sequence[str] = (), dollars: Mapping[str, Rates] | None = None
) -> list[dict[str, Any]]:
    """What an attempt by each arm costs on average, in every unit, and why; a row per arm.

    Attempts are those of the train split; `dollars` are of a million prompt and written tokens,
    where the set does not say. Of an empty `ladder` the default counts.

    Tokens of prompts and of what is written, costs of a written token, of a first and of a further
    attempt in written tokens of the first arm, and of a first one in dollars and seconds.
    """
    models, arms = traces.models(ladder), traces.arms(ladder)
    table = build_table(traces, ["train"], [model.name for model in models])
    flops = cost_model(models)
    rates = {
        "dollars": known_rates(traces, models, "dollars", dollars or {}),
        "seconds": known_rates(traces, models, "seconds", {}),
    }
    rows = []
    for rung, (model, arm) in enumerate(zip(models, arms, strict=True)):
        fresh = table.stream[:, rung]
        own = table.attempts[fresh[fresh >= 0]]
        prompt, written = (float(own[f"{kind}_tokens"].mean()) for kind in ("prompt", "completion"))
        bills = {
            unit: f"{(prompt * rate[0] + written * rate[1]) / 1e6:.2g}"
            for unit, known in rates.items()
            if (rate := known.get(model.name))
        }
        rows.append(
            {
                "arm": arm.name,
                "tier": str(arm.tier),
                "family": arm.family,
                "right": float(table.success_rates[:, rung].mean()),
                "prompt": f"{prompt:.0f}",
                "written": f"{written:.0f}",
                "a token": f"{flops.weights[rung]:.3g}",
                "an attempt": f"{flops.weights[rung] * (prompt + written):.3g}",
                "a further": f"{flops.weights[rung] * written:.3g}",
                **{unit: bills.get(unit, "-") for unit in rates},
            }
        )
    return rows


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is asked of an arm: tokens of a prompt and an attempt, and attempts side by side."""

    prompt: int = 200
    written: int = 300
    batch: int = 1


def menu_cost(
    places: Sequence[ModelPlace],
    loads: Mapping[str, Load],
    hardware: Hardware,
    dollars: Mapping[str, Rates],
) -> list[dict[str, Any]]:
    """A row per arm: a first attempt and, its prompt being cached, a further one, and why.

    Raises:
        BackendError: a model that is no server has no configuration that transformers reads.
        ConfigError: dollars of something other than an arm.
    """
    names = [place.name for place in places]
    for stranger in sorted(dollars.keys() - {*names}):
        raise ConfigError(f"dollars: expected arms among {names}, found {stranger!r}")
    known: dict[tuple[str, int | None], Architecture] = {}
    rows = []
    for place in places:
        load, row = loads[place.name], {"arm": place.name, "tier": str(place.tier or "-")}
        row |= {"prompt": str(load.prompt), "written": str(load.written)}
        why = []
        if not place.is_server:
            model = place.source, place.body.get("num_loops")
            if model not in known:
                known[model] = Architecture.read(place)
            row |= _computed(known[model], load, hardware)
            why.append(_sizes(known[model], load))
        else:
            row |= dict.fromkeys(("operations", "a further", "seconds"), "-")
            why.append(f"{place.model} behind a server, whose size is not known")
        said = dollars.get(place.name)
        prices = (
            (said[0], said[0], said[1])
            if said
            else (listed(place.name) or listed(place.model or ""))
        )
        row |= dict.fromkeys(("dollars", "a further, dollars"), "-")
        if prices:
            prompt, cached, written = (price / 1e6 for price in prices)
            rest = written * load.written
            row["dollars"] = f"{prompt * load.prompt + rest:.2g}"
            row["a further, dollars"] = f"{cached * load.prompt + rest:.2g}"
            why.append(f"${'/'.join(f'{price:g}' for price in prices)} of a million tokens")
        rows.append(row | {"why": "; ".join(why)})
    return rows


def loads_of(traces: Path | None, default: Load) -> dict[str, Load]:
    """Mean lengths of recorded attempts by model, revisions aside, as loads like the default."""
    if traces is None:
        return {}
    columns = ["model", "action", "prompt_tokens", "completion_tokens"]
    made = TraceSet.read(traces).attempts.select(columns).to_pandas()
    fresh = made[~made.pop("action").isin(REVISING)]
    means = fresh.groupby("model").mean()
    return {
        str(row.Index): replace(
            default, prompt=round(row.prompt_tokens), written=round(row.completion_tokens)
        )
        for row in means.itertuples()
    }


def _computed(model: Architecture, load: Load, hardware: Hardware) -> dict[str, str]:
    operations = model.flops(load.prompt, load.written)
    further = model.flops(load.prompt, load.written, cached=True)
    seconds = model.seconds(load.prompt, load.written, hardware, batch=load.batch)
    return {
        "operations": f"{operations:.3g}",
        "a further": f"{further:.3g}",
        "seconds": f"{seconds:.2g}",
    }


def _sizes(model: Architecture, load: Load) -> str:
    attention = model.attention(load.prompt, load.written) / model.flops(load.prompt, load.written)
    share = "" if model.expert_share == 1 else f", {model.expert_share:.1%} of its experts"
    return (
        f"2 x {model.parameters:.3g} parameters a token{share}, of {model.stored:.3g} stored; "
        f"{model.layers} layers of {model.heads} heads ({model.kv_heads} of keys), "
        f"{model.kept_bytes / 1e3:.3g} kB of keys and values a token, attention {attention:.1%}"
    )
