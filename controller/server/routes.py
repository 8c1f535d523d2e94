"""Routes that answer no question: POST /v1/decide and POST /v1/prepare.

One decides on attempts that were made elsewhere; by the other models read a context while nobody
waits, so that its questions cost less.
"""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter
from typing import Annotated, Any, Literal, NoReturn

import numpy as np
from pydantic import Field
from starlette.exceptions import HTTPException

from controller.answers import AnswerKind, answer_kind, read_answer
from controller.backends.base import PromptState
from controller.backends.identity import text_digest
from controller.backends.openai.resilience import FILTERED, REJECTED, TOO_LONG
from controller.backends.recorded import ReplayBackend
from controller.core import Episode
from controller.errors import BackendError, ConfigError
from controller.process.cost import Usage
from controller.process.episodes import EpisodeConfig
from controller.process.types import Attempt, ModelSpec, Question
from controller.server.engine import Engine, RequestTerms
from controller.server.limits import Budgets, unwanted
from controller.server.ops import Metrics, service_log
from controller.server.replies import choice_json
from controller.server.schema import AttemptIn, DecideRequest, Strict, Text
from controller.server.variants import Variant

_PREFIX, _DIGITS = "context-", 32
_CHARACTERS = 4
"""Of a token, before a context has been read."""


class PrepareRequest(Strict):
    """POST /v1/prepare."""

    model: Literal["allot"] = "allot"
    context: Annotated[Text, Field(min_length=1)] = Field(
        description="What questions will be about: the system message that they begin with."
    )
    level: Annotated[int, Field(ge=1, le=64)] = Field(
        1, description="How many of the models read it, the small one first."
    )


def context_id(context: str) -> str:
    """Id of a context: of what it says, so that every worker knows whether it has changed."""
    return _PREFIX + text_digest(context, _DIGITS)


def check_prepared(question: Question, prepared: str | None) -> None:
    """See that a question begins with the context that was prepared for it.

    Raises:
        ConfigError: it begins with another, or with none.
    """
    if prepared is None:
        return
    first = question.history[0] if question.history else {}
    if first.get("role") != "system" or context_id(str(first.get("content"))) != prepared:
        raise ConfigError(
            "prepared: expected the context of that id as the first, system message, found "
            f"{'another' if first else 'none'}; POST /v1/prepare tells the id of a changed context"
        )


class Idle:
    """Work that nobody waits for, within its limits and in a ledger of its own."""

    def __init__(self, engine: Engine, metrics: Metrics) -> None:
        self._engine, self._metrics = engine, metrics
        self._budgets = Budgets(engine.limits, engine.shared.buckets(), of="idle_tokens")

    async def prepare(self, asked: PrepareRequest, caller: str) -> dict[str, Any]:
        """Have models read a context; what it took is charged once it is known.

        Raises:
            HTTPException: the tokens of this minute are used up, or the models cannot read it.
        """
        models = self._engine.backend.models[: asked.level]
        is_small = self._engine.variants.all[0].checkpoint.config.is_small
        if not is_small[: len(models)].all() and self._engine.escalations.exhausted(caller):
            self._turn_away("level: this minute's escalations are used up; ask for a lower one")
        # What is taken at once is put right below: others that come meanwhile see it gone.
        expected = len(asked.context) // _CHARACTERS * len(models)
        if self._budgets.exhausted(caller):
            self._turn_away("idle_tokens: this minute's are used up")
        self._budgets.take(caller, expected)
        context, read = [{"role": "system", "content": asked.context}], dict[int, Usage]()
        try:
            read = await self._engine.backend.warm(context, asked.level)
        except BackendError as error:
            theirs = any(kind in str(error) for kind in (TOO_LONG, REJECTED, FILTERED, "expected"))
            raise HTTPException(400 if theirs else 503, str(error)) from error
        finally:
            tokens = {
                rung: used.prefill_tokens + used.decoded_tokens + used.cancelled_tokens
                for rung, used in read.items()
            }
            self._budgets.take(caller, sum(tokens.values()) - expected)
        for rung in read:
            self._metrics.idle_tokens.labels(models[rung].name).inc(tokens[rung])
            if not is_small[rung]:
                self._engine.escalations.take(caller)
        found = {
            "id": context_id(asked.context),
            "object": "prepared",
            "level": len(read),
            "usage": [
                {
                    "model": models[rung].name,
                    "idle_tokens": tokens[rung],
                    "cached_tokens": usage.cached_tokens,
                }
                for rung, usage in read.items()
            ],
        }
        service_log.info("prepared", extra={"fields": {"caller": caller, **found}})
        return found

    def _turn_away(self, why: str) -> NoReturn:
        self._metrics.turned_away.labels("idle").inc()
        raise HTTPException(429, why, {"retry-after": "60"})


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
