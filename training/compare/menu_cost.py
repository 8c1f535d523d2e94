"""What an attempt by each arm of a menu costs in operations, dollars and seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from controller.backends.architecture import Architecture, Hardware
from controller.backends.places import ModelPlace
from controller.backends.prices import listed
from controller.errors import ConfigError
from controller.process.actions import REVISING
from controller.process.types import Dollars
from envs.traces.format import TraceSet


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is asked of an arm.

    Attributes:
        prompt: tokens of a prompt.
        written: tokens of an attempt.
        batch: attempts that are written side by side.
    """

    prompt: int = 200
    written: int = 300
    batch: int = 1


def menu_cost(
    places: Sequence[ModelPlace],
    loads: Mapping[str, Load],
    hardware: Hardware,
    dollars: Mapping[str, Dollars],
) -> list[dict[str, Any]]:
    """A row per arm: a first attempt and, its prompt being cached, a further one, and why.

    Args:
        places: the arms.
        loads: by name.
        hardware: that models run on.
        dollars: of a million prompt and written tokens, before the shipped list.

    Raises:
        BackendError: a model that is no server has no configuration that transformers reads.
        ConfigError: dollars of something other than an arm.
    """
    names = [place.name for place in places]
    for stranger in sorted(dollars.keys() - {*names}):
        raise ConfigError(f"dollars: expected arms among {names}, found {stranger!r}")
    known: dict[str, Architecture] = {}
    rows = []
    for place in places:
        load, row = loads[place.name], {"arm": place.name, "tier": str(place.tier or "-")}
        row |= {"prompt": str(load.prompt), "written": str(load.written)}
        why = []
        if place.is_local:
            if place.source not in known:
                known[place.source] = Architecture.read(place)
            row |= _computed(known[place.source], load, hardware)
            why.append(_sizes(known[place.source], load))
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
        f"2 x {model.parameters:.3g} parameters a token{share}; {model.layers} layers of "
        f"{model.heads} heads ({model.kv_heads} of keys), attention {attention:.1%}"
    )
