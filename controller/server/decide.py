"""Decisions on attempts that were made elsewhere."""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np

from controller.answers import AnswerKind, answer_kind, read_answer
from controller.backends.base import PromptState
from controller.backends.recorded import ReplayBackend
from controller.core import Episode
from controller.errors import ConfigError
from controller.process.cost import Usage
from controller.process.episodes import EpisodeConfig
from controller.process.types import Attempt, ModelSpec, Question
from controller.server.engine import RequestTerms
from controller.server.limits import unwanted
from controller.server.replies import choice_json
from controller.server.schema import AttemptIn, DecideRequest
from controller.server.variants import Variant


def decide(request: DecideRequest, terms: RequestTerms, variant: Variant) -> dict[str, Any]:
    """The next action after some attempts, as a variant's policy would choose it.

    Raises:
        ConfigError: terms out of range, or attempts that the decision process has no room for.
    """
    config, models = variant.checkpoint.config, variant.checkpoint.models
    lengths = tuple(request.prompt_tokens)
    if len(lengths) == 1:
        lengths *= config.num_rungs
    if len(lengths) != config.num_rungs:
        raise ConfigError(f"prompt_tokens: expected 1 or {config.num_rungs}, found {len(lengths)}")
    if len(request.attempts) > config.max_attempts:
        raise ConfigError(
            f"attempts: expected at most {config.max_attempts}, found {len(request.attempts)}"
        )
    episode = Episode(
        Question(question_id="", text=request.question or ""),
        ReplayBackend(models, (), {}),
        config,
        terms.at(variant.pricing.price_for(terms)),
        difficulty=None if request.question is None else variant.checkpoint.difficulty,
    )
    episode.start(PromptState(prompt_tokens=lengths))
    answers = answer_kind(variant.checkpoint.answers)
    made = [_attempt(a, i, config, models, answers) for i, a in enumerate(request.attempts)]
    # Attempts without a number were a round each.
    numbers = [object() if a.round is None else a.round for a in request.attempts]
    for _, round_ in groupby(zip(numbers, made, strict=True), key=itemgetter(0)):
        batch = [attempt for _, attempt in round_]
        episode.made(batch)
        scores = [a.verifier_score for a in batch if a.verifier_score is not None]
        if config.verifies and scores:
            episode.verified(scores)
    strayed: list[str] = []
    refused = unwanted(terms.without, config, models)
    mask = episode.mask() & np.array([action not in refused for action in config.actions])
    choice = variant.new_decider(strayed.append, terms.rule).choose(episode, mask)
    allowed = zip(config.actions.names, mask[0].tolist(), strict=True)
    return {
        "object": "decision",
        **choice_json(choice, explain=terms.explain),
        "allowed": [name for name, legal in allowed if legal],
        "guarded": strayed[0] if strayed else None,
        "price": episode.price,
        "arm": variant.name,
        "policy": variant.digest,
    }


def _attempt(
    given: AttemptIn,
    index: int,
    config: EpisodeConfig,
    models: tuple[ModelSpec, ...],
    answers: AnswerKind,
) -> Attempt:
    own = config.rungs_of(given.action) or ((1,) if given.action.spec.tier else (0,))
    rung = own[0] if given.rung is None else given.rung
    if given.action.spec.attempt is None:
        raise ConfigError(
            f"attempts.{index}.action: expected one that brings attempts, found {given.action}"
        )
    if rung not in own or rung >= len(models):
        raise ConfigError(
            f"attempts.{index}.rung: expected one of {list(own)} for {given.action}, found {rung}"
        )
    read = read_answer(given.text, None, answers) if given.text is not None else None
    return Attempt(
        attempt_id=str(index),
        question_id="",
        model=models[rung].name,
        rung=rung,
        index=index,
        answer=answers.canonical(given.answer) if given.answer is not None else read,
        usage=Usage(decoded_tokens=given.completion_tokens),
        **given.model_dump(exclude={"answer", "rung", "round", "text"}),
    )
