"""A training that starts from another controller: for another set, or for a menu that changed."""

from __future__ import annotations

import torch

from controller.checkpoint import AnyCheckpoint
from controller.errors import ConfigError
from controller.granularity import Process, granularity_of
from controller.policy.network import ActionScorer, PolicyNetwork
from controller.process.actions import ActionKind
from controller.process.episodes import EpisodeConfig

_APART = "actor.apart"
"""Weights of a shared network that are of one action each."""


def start_from(policy: PolicyNetwork, process: Process, source: AnyCheckpoint) -> str:
    """Give a policy the weights of another controller.

    A shared network takes them whatever its arms are: a new one is scored as those are of which the
    same is seen; what was learnt of each action apart goes to the same action of the same arm. A
    flat network has weights for each arm, and needs the same arms and actions.

    Args:
        policy: gets the weights.
        process: what it decides about.
        source: has them.

    Returns:
        One line on which arms were matched.

    Raises:
        ConfigError: the networks differ, or their arms do not fit.
    """
    own, theirs = granularity_of(process), source.granularity
    for name, expected, found in (
        ("decisions", theirs.unit, own.unit),
        *(
            (name, getattr(source.policy.config, name), getattr(policy.config, name))
            for name in ("network", "hidden_sizes", "ignored_features")
        ),
    ):
        if expected != found:
            raise ConfigError(f"{name}: expected {expected} as of {source.path}, found {found}")
    arms, known = (getattr(p, "arm_names", ()) for p in (process, source.config))
    matched = [arm for arm in arms if arm in known]
    same = (own.features, process.actions) == (theirs.features, source.config.actions)
    if not same and (policy.config.network == "flat" or not matched):
        wanted = "some of the arms" if policy.config.network == "shared" else "the arms and actions"
        raise ConfigError(
            f"start: expected {wanted} of {source.path}, a {policy.config.network} network for "
            f"{', '.join(known)}; found {', '.join(arms)}"
        )
    weights = source.policy.state_dict()
    if isinstance(process, EpisodeConfig) and isinstance(policy.actor, ActionScorer):
        apart = torch.zeros_like(policy.actor.apart)
        places = {asked: place for place, asked in enumerate(_asked(source.config))}
        for place, asked in enumerate(_asked(process)):
            if asked in places:
                apart[place] = weights[_APART][places[asked]]
        weights = {**weights, _APART: apart}
    policy.load_state_dict(weights)
    new = ", ".join(arm for arm in arms if arm not in known)
    return f"starts from {source.path}: knows {', '.join(matched)}; new: {new or 'none'}"


def _asked(process: EpisodeConfig) -> list[tuple[ActionKind, int, str]]:
    """Kind, width and arm of each action, also where a pair's leave the arm unsaid."""
    return [
        (action.kind, action.width, process.arm_names[process.rung_of(action.kind, action.arm)])
        for action in process.actions
    ]
