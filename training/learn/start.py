"""A training that starts from another controller: for another set, or for a menu that changed."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from controller.checkpoint import AnyCheckpoint
from controller.errors import ConfigError
from controller.granularity import Process, granularity_of
from controller.policy.network import ActionScorer, PolicyNetwork
from controller.segments.episodes import SegmentConfig


def start_from(policy: PolicyNetwork, process: Process, source: AnyCheckpoint) -> str:
    """Give a policy the weights of another controller; its arms are matched by name.

    Returns one line on which arms were matched.

    A shared network scores a new arm as those of which the same is seen. A flat one knows nothing
    of it: its weights are 0.

    Raises:
        ConfigError: the networks differ, or they have no arm in common.
    """
    own, theirs = granularity_of(process), source.granularity
    named, network = ("network", "hidden_sizes", "ignored_features"), policy.config.network
    same = [(n, getattr(source.policy.config, n), getattr(policy.config, n)) for n in named]
    if network != "flat":
        added = ("own_actions", "own_features")
        same += [(n, getattr(source.config, n, ()), getattr(process, n, ())) for n in added]
    if network not in ("flat", "shared"):
        same += [("actions", source.config.actions.names, process.actions.names)]
        same += [("features", theirs.features, own.features)]
    for name, expected, found in (("decisions", theirs.unit, own.unit), *same):
        if expected != found:
            raise ConfigError(f"{name}: expected {expected} as of {source.path}, found {found}")
    arms, known = (getattr(p, "arm_names", ()) for p in (process, source.config))
    matched = [arm for arm in arms if arm in known]
    if arms and not matched:
        raise ConfigError(
            f"start: expected some of the arms of {source.path}, {', '.join(known)}; found "
            f"{', '.join(arms)}"
        )
    weights = dict(source.policy.state_dict())
    asked = _asked(process), _asked(source.config)
    if isinstance(policy.actor, ActionScorer):
        weights["actor.apart"] = _taken(weights["actor.apart"], *asked)
    elif network == "flat":
        for name in ("actor.0.weight", "critic.0.weight"):
            weights[name] = _taken(weights[name].T, own.features, theirs.features).T
        for part in ("weight", "bias"):
            name = f"actor.{len(policy.actor) - 1}.{part}"
            weights[name] = _taken(weights[name], *asked)
    policy.load_state_dict(weights)
    new = [arm for arm in arms if arm not in known]
    return f"starts from {source.path}: knows {', '.join(matched)}; new: {', '.join(new) or 'none'}"


def _taken(weights: Tensor, own: Sequence[Hashable], theirs: Sequence[Hashable]) -> Tensor:
    """Weights, (theirs, ...), of what both have, 0 elsewhere, (own, ...)."""
    places = {name: place for place, name in enumerate(theirs)}
    both = [(row, places[name]) for row, name in enumerate(own) if name in places]
    taken = torch.zeros(len(own), *weights.shape[1:])
    rows, sources = torch.tensor(both).T
    taken[rows] = weights[sources]
    return taken


def _asked(process: Process) -> list[Hashable]:
    """Kind, width and arm of each action, also where a pair's leave the arm unsaid."""
    if isinstance(process, SegmentConfig):
        return list(process.actions)
    return [
        (action.kind, action.width, process.arm_names[process.rung_of(action.kind, action.arm)])
        for action in process.actions
    ]
