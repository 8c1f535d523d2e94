"""Settings of the decision process that follow from the train split of segment traces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from controller.segments.episodes import SegmentConfig
from envs.segments.table import Ints, SegmentTable
from envs.segments.traces import SegmentTraces
from envs.traces.derive import cost_model


def derive_segment_config(
    train: SegmentTable,
    traces: SegmentTraces,
    ladder: Sequence[str] | None = None,
    *,
    token_costs: Mapping[str, float] | None = None,
    probes: bool = False,
    escalates: bool = True,
) -> SegmentConfig:
    """The decision process for a set of segment traces.

    Args:
        train: trees of the train split.
        traces: the set.
        ladder: names of its models, or None.
        token_costs: relative cost per token by model name, where sizes are unknown.
        probes: whether an answer is forced after each segment.
        escalates: whether the large model may take over, if there is one.
    """
    models, segmentation = traces.models(ladder), traces.segmentation
    forced = train.forced_tokens[train.forced_tokens > 0]
    return SegmentConfig(
        cost=cost_model(models, token_costs),
        draws=traces.draws,
        max_tokens=int(models[0].max_new_tokens or 1),
        max_segment_tokens=segmentation.max_tokens,
        max_forced_tokens=int(forced.max(initial=1)),
        mean_segment_tokens=_mean(train.num_tokens[np.unique(train.draws[train.draws >= 0])]),
        mean_forced_tokens=_mean(forced),
        mean_rest_tokens=_mean(train.num_tokens[train.ended[train.ended >= 0]]),
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
        lengths += np.where(going, table.num_tokens[node], 0)
    return lengths
