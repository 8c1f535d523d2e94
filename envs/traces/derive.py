"""Settings of the decision process that follow from the train split of a set of traces."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from controller.backends.prices import listed
from controller.errors import ConfigError
from controller.process.actions import Tier
from controller.process.cost import CostModel
from controller.process.episodes import EpisodeConfig
from controller.process.features import THINKING
from controller.process.lockstep import Ints
from controller.process.menu import Arm, menu_of
from controller.process.types import ModelSpec, Rates
from controller.segments.episodes import SegmentConfig
from envs.draws import Streams
from envs.replay import AttemptReplay
from envs.segments import SegmentTable, SegmentTraces
from envs.traces.format import TraceSet
from envs.traces.table import TraceTable

ASSUMED_TOKEN_COST = 20.0
"""Small-model tokens that a token of a large model of unknown size is taken to cost."""

MAX_REVISIONS = 4
MAX_ESCALATIONS = 2

_ENOUGH_QUESTIONS = 20_000
"""To fit vote weights on; more only take longer."""

_VOTE_WEIGHTS = (1, 2, 3, 4, 6, 8, 12, 16, 24)


def known_rates(
    traces: TraceSet, models: Sequence[ModelSpec], unit: str, said: Mapping[str, Rates]
) -> dict[str, Rates]:
    """Rates of models in dollars or seconds, as said, as the set or its attempts tell, or listed.

    There are none of a model of which nobody tells.
    """
    known = dict(said)
    if unit == "dollars":
        known = {m.name: m.dollars for m in models if m.dollars} | known
    if all(model.name in known for model in models):
        return known
    known = traces.fitted_rates(unit) | known
    names = (model.name for model in models if unit == "dollars" and model.name not in known)
    return known | {name: (found[0], found[2]) for name in names if (found := listed(name))}


def priced_model(
    models: Sequence[ModelSpec], rates: Mapping[str, Rates], unit: str = "dollars"
) -> CostModel:
    """Ledger of a menu in dollars or seconds, by rung, from the rates of each by name.

    Raises:
        ConfigError: a model without, or one whose written tokens cost nothing.
    """
    known = [rates.get(model.name, (0.0, 0.0)) for model in models]
    for model, (prompt, written) in zip(models, known, strict=True):
        if not (0 < written < math.inf and 0 <= prompt < math.inf):
            told = {"dollars": "dollars_per_million_tokens in trace.json, or cost_usd"}
            raise ConfigError(
                f"{unit}: expected what a million prompt and written tokens of {model.name} "
                f"cost, found {rates.get(model.name)}; say --{unit} {model.name}=PROMPT/WRITTEN, "
                f"or {told.get(unit, unit)} of the attempts"
            )
    return CostModel(
        weights=tuple(written / known[0][1] for _, written in known),
        prompt_shares=tuple(prompt / written for prompt, written in known),
        **{unit: known[0][1] / 1e6},
    )


def cost_model(
    models: Sequence[ModelSpec], token_costs: Mapping[str, float] | None = None
) -> CostModel:
    """Ledger of a ladder; models of unknown size are assumed dear, with a warning."""
    told, size = token_costs or {}, models[0].parameters
    weights = [float(told.get(models[0].name, 1.0))]
    for model in models[1:]:
        known = told.get(model.name) or (size and model.parameters and model.parameters / size)
        if not known:
            warnings.warn(
                f"the size of {model.name} is unknown: assuming that one of its tokens costs "
                f"{ASSUMED_TOKEN_COST:g} tokens of {models[0].name}; set it with "
                f"--token-cost {model.name}=COST",
                stacklevel=2,
            )
        weights.append(float(known or ASSUMED_TOKEN_COST))
    extra = {adapter.name: adapter.parameters for adapter in models[0].adapters}
    return CostModel(
        weights=tuple(weights),
        reviser_weight=1 + extra.get("reviser", 0) / (size or math.inf),
        verifier_weight=1 + extra.get("verifier", 0) / (size or math.inf),
    )


def derive_config(
    train: TraceTable,
    models: Sequence[ModelSpec],
    arms: tuple[Arm, ...] = (),
    *,
    cost: CostModel | None = None,
    sample_widths: tuple[int, ...] = (1,),
    max_samples: int = 16,
) -> EpisodeConfig:
    """The decision process for a trace set.

    `arms` are the models as arms of a menu, none for a small model and larger ones. Costs are
    FLOPs unless there is another `cost`, see `cost_model` and `priced_model`.

    Lengths, the cost unit (a typical first small attempt) and the vote weight of each
    rung come from the train split alone. What the traces do not hold, a policy cannot
    learn to use: no revisions recorded, no REVISE later.
    """
    rungs, made = range(len(models)), train.attempts
    arms = arms or menu_of([model.name for model in models])
    held = train.stream_length.max(0)  # (R,)
    question, _, places = train.independent
    of, by = train.children[places, :, 1].nonzero()
    # Independent attempts, the first revision of each by an arm, and their questions, (n,) each.
    revised = places[of], train.children[places[of], by, 0], question[of]
    scored = bool((~np.isnan(made["verifier_score"])).any())
    judge = next((rung for rung, arm in enumerate(arms) if arm.verifies and scored), None)
    named = train.revisers not in ((), (0,)) or bool(made["rung"][revised[0]].any())
    arms = tuple(
        replace(
            arm,
            most=min(most, max_samples if arm.tier is Tier.SMALL else MAX_ESCALATIONS),
            revises=named and rung in train.revisers,
            verifies=rung == judge,
        )
        for rung, (arm, most) in enumerate(zip(arms, held.tolist(), strict=True))
    )
    small = np.array([arm.tier is Tier.SMALL for arm in arms])
    most = min(max_samples, int(held[small].max()))
    widths = tuple(w for w in sample_widths if w == 1 or w <= most)
    if not widths:
        raise ConfigError(
            f"sample_widths: expected one that {most} attempts allow, found {sample_widths}"
        )
    means = tuple(float(made["completion_tokens"][made["rung"] == r].mean()) for r in rungs)
    overhead = _revision_overhead(train, *revised)
    if named:
        # A parent that another arm wrote may have more tokens in the reviser's count, all the
        # more the longer it is.
        longest = int(made["completion_tokens"][revised[0]].max(initial=1))
        worst = max(int(model.max_new_tokens or 1) for model in models)
        overhead = math.ceil(overhead * max(1.0, worst / max(longest, 1)))
    config = EpisodeConfig(
        cost=cost or cost_model(models),
        vote_weights=(1,) * len(models),
        mean_completion_tokens=tuple(max(mean, 1.0) for mean in means),
        max_completion_tokens=tuple(int(m.max_new_tokens or 1) for m in models),
        cost_unit=max(1.0, float(train.prompt_tokens[:, 0].mean()) + means[0]),
        sample_widths=widths,
        max_samples=most,
        max_revisions=MAX_REVISIONS if train.revisers else 0,
        max_escalations=min(MAX_ESCALATIONS, int(held[~small].max(initial=0))),
        revision_overhead=overhead,
        verifies=scored,
        verification_overhead=0 if judge is None else _verification_overhead(train, judge),
        reads_logprobs=bool((~np.isnan(made["mean_logprob"])).any()),
        reads_cuts=bool(made["cut"].any()),
        own_features=(THINKING,) if made["reasoning_tokens"].any() else (),
        arms=arms,
    )
    some = enough(train)
    for rung in rungs[1:]:
        config = replace(config, vote_weights=_fit_weight(some, config, rung))
    return config


def enough(train: TraceTable) -> TraceTable:
    """As many of the questions as a few numbers of a process take to be fitted, evenly spread."""
    if len(train) <= _ENOUGH_QUESTIONS:
        return train
    return train.take(np.linspace(0, len(train) - 1, _ENOUGH_QUESTIONS).astype(np.int64))


def _revision_overhead(train: TraceTable, parents: Ints, children: Ints, question: Ints) -> int:
    """Most tokens of a REVISE prompt beside its question and parent."""
    made = train.attempts
    extra = (
        made["prompt_tokens"][children]
        - train.prompt_tokens[question, made["rung"][children]]
        - made["completion_tokens"][parents]
    )
    return max(0, int(extra.max(initial=0)))


def _verification_overhead(train: TraceTable, judge: int) -> int:
    """Mean tokens that an arm reads and writes to judge an attempt beside that and the question."""
    question, _, places = train.independent
    made = train.attempts[places]
    extra = made["verifier_tokens"] - train.prompt_tokens[question, judge]
    extra = (extra - made["completion_tokens"])[made["verifier_tokens"] > 0]
    return max(0, round(float(extra.mean()))) if len(extra) else 0


def _fit_weight(train: TraceTable, config: EpisodeConfig, rung: int) -> tuple[int, ...]:
    """Weight of one rung's answers that makes votes of mixed rungs most often right."""

    def weights(weight: int) -> tuple[int, ...]:
        return tuple(weight if r == rung else w for r, w in enumerate(config.vote_weights))

    accuracy = [
        _mixed_vote_accuracy(train, replace(config, vote_weights=weights(w)), rung)
        for w in _VOTE_WEIGHTS
    ]
    return weights(_VOTE_WEIGHTS[int(np.argmax(accuracy))])


def _mixed_vote_accuracy(train: TraceTable, config: EpisodeConfig, rung: int) -> float:
    """Mean accuracy of votes over 1..max_samples small attempts and one of `rung`."""
    n = len(train)
    replay = AttemptReplay(train, replace(config, max_escalations=1), n)
    streams = Streams(np.arange(n, dtype=np.uint64))
    rows = np.arange(n)
    replay.begin(rows, rows, np.ones(n))
    replay.take(rows, np.full(n, config.asks(rung)), streams)
    right = []
    for _ in range(config.max_samples):
        open_rows = rows[replay.episodes.counts[:, 0] < replay.episodes.limits[:, 0]]
        if not len(open_rows):
            break
        replay.take(open_rows, np.full(len(open_rows), config.asks(0)), streams)
        right.append(replay.right().mean())
    return float(np.mean(right))


def derive_segment_config(
    train: SegmentTable,
    traces: SegmentTraces,
    ladder: Sequence[str] | None = None,
    *,
    token_costs: Mapping[str, float] | None = None,
    probes: bool = False,
    escalates: bool = True,
) -> SegmentConfig:
    """The decision process for a set of segment traces, from trees of the train split.

    `token_costs` are relative, by model name, where sizes are unknown; `probes` has an answer
    forced after each segment; a large model may take over unless not `escalates`.
    """
    models, segmentation = traces.models(ladder), traces.segmentation
    written, forced = train.segments["num_tokens"], train.segments["forced_tokens"]
    forced = forced[forced > 0]
    return SegmentConfig(
        cost=cost_model(models, token_costs),
        draws=traces.draws,
        max_tokens=int(models[0].max_new_tokens or 1),
        max_segment_tokens=segmentation.max_tokens,
        max_forced_tokens=int(forced.max(initial=1)),
        mean_segment_tokens=_mean(written[np.unique(train.draws[train.draws >= 0])]),
        mean_forced_tokens=_mean(forced),
        mean_rest_tokens=_mean(written[train.ended[train.ended >= 0]]),
        cost_unit=float(train.prompt_tokens[:, 0].mean() + _first_lengths(train).mean()),
        lines=segmentation.lines,
        escalates=escalates and len(models) > 1,
        probes=probes,
    )


def _mean(lengths: Ints) -> float:
    return max(1.0, float(lengths.mean()) if len(lengths) else 1.0)


def _first_lengths(table: SegmentTable) -> Ints:
    """Tokens of the attempts that take the first draw of each segment, (T,)."""
    node, lengths = table.root, np.zeros(len(table), np.int64)
    while (going := table.draws[node, 0] >= 0).any():
        node = np.where(going, table.draws[node, 0], node)
        lengths += np.where(going, table.segments["num_tokens"][node], 0)
    return lengths
