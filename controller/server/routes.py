"""Routes that answer no question.

- POST /v1/decide: decisions on attempts that were made elsewhere.
- POST /v1/prepare: models read a context while nobody waits, so that its questions cost less.
- GET /: the playground, which asks the service's own API and shows each decision as it is streamed.
- GET /openapi.json: openapi.yaml, and what follows from the checks of requests.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import asdict
from functools import cache
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import numpy as np
import yaml
from jinja2.utils import htmlsafe_json_dumps
from pydantic import Field
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse

from controller.answers import AnswerKind, answer_kind, read_answer
from controller.backends.base import TOO_LONG, PromptState
from controller.backends.identity import text_digest
from controller.backends.openai.resilience import FILTERED, REJECTED
from controller.backends.recorded import ReplayBackend
from controller.core import Episode
from controller.errors import BackendError, ConfigError
from controller.field_notes import field_notes
from controller.policy.deciders import NAMED_RULES
from controller.process.actions import ActionKind
from controller.process.cost import Usage
from controller.process.episodes import EpisodeConfig
from controller.process.terms import Terms
from controller.process.types import CUT, Attempt, ModelSpec, Question
from controller.server.engine import Engine, RequestTerms
from controller.server.limits import Budgets, unwanted
from controller.server.logs import tell
from controller.server.ops import Metrics
from controller.server.replies import choice_json
from controller.server.responses import ResponseRequest
from controller.server.schema import (
    HEADER_PREFIX,
    HEADERS,
    MODEL,
    TERMS,
    AttemptIn,
    ChatRequest,
    CompletionRequest,
    DecideRequest,
    Strict,
    Text,
)
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
            tokens = {rung: used.processed_tokens for rung, used in read.items()}
            self._budgets.take(caller, sum(tokens.values()) - expected)
        for rung in read:
            self._metrics.idle_tokens.labels(models[rung].name).inc(tokens[rung])
            if not is_small[rung]:
                self._engine.escalations.take(caller)
        found: dict[str, Any] = {
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
        tell("prepared", caller=caller, **found)
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
    cut = given.finish_reason == CUT
    read = read_answer(given.text, None, answers, cut=cut) if given.text is not None else None
    return Attempt(
        attempt_id=str(index),
        question_id="",
        model=models[rung].name,
        rung=rung,
        index=index,
        answer=answers.canonical(given.answer) if given.answer is not None else read,
        usage=Usage(
            decoded_tokens=given.completion_tokens, reasoning_tokens=given.reasoning_tokens
        ),
        **given.model_dump(exclude={"answer", "rung", "round", "text", "reasoning_tokens"}),
    )


_QUESTIONS = (ChatRequest, CompletionRequest, ResponseRequest, DecideRequest)
_TYPES = {float: "number", int: "integer", str: "string"}


@cache
def document(*, keys: bool) -> dict[str, Any]:
    """The document; `keys` tells whether one is needed."""
    text = Path(__file__).with_name("openapi.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    _, models = models_json_schema(
        [(kind, "validation") for kind in (*_QUESTIONS, PrepareRequest)],
        ref_template="#/components/schemas/{model}",
    )
    terms, notes = TERMS.json_schema(), field_notes(RequestTerms)
    for name, field in terms["properties"].items():
        field["description"] = notes[name]
    found["components"]["schemas"] |= models["$defs"] | {"RequestTerms": terms}
    for kind in _QUESTIONS:
        fields = models["$defs"][kind.__name__]["properties"]
        fields["allot"] = {"$ref": "#/components/schemas/RequestTerms"}
    for name, path in found["paths"].items():
        if "post" in path and name != "/v1/prepare":
            path["post"]["parameters"] = [
                {"name": HEADER_PREFIX + name, "in": "header", "schema": {"type": _TYPES[read]}}
                for name, read in HEADERS.items()
            ]
    if keys:
        found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"key": []}]
    return found


def page(engine: Engine, *, keys: bool) -> HTMLResponse:
    """The page, with what it has to know of the first variant; `keys`: whether one is needed."""
    variant = engine.variants.all[0]
    process, calibration = variant.process, variant.checkpoint.calibration
    setup: dict[str, Any] = {
        "model": MODEL,
        "models": [
            {"name": model.name, "parameters": model.parameters, "weight": weight, "tier": arm.tier}
            for model, weight, arm in zip(
                engine.backend.models, process.cost.weights, process.menu, strict=True
            )
        ],
        "actions": process.actions.names,
        "kinds": {
            kind.value: kind.spec.meaning for kind in process.kinds if kind is not ActionKind.STOP
        },
        "rules": {name: str(rule) for name, rule in NAMED_RULES.items()},
        "price": variant.pricing.price_for(Terms()),
        "price_range": variant.checkpoint.price_range,
        "calibration": calibration and asdict(calibration),
        "keys": keys,
    }
    text, policy = _template()
    return HTMLResponse(
        text.replace("{{ setup }}", str(htmlsafe_json_dumps(setup, separators=(",", ":")))),
        headers={
            "content-security-policy": policy,
            "cache-control": "no-store",
            "referrer-policy": "no-referrer",
            "x-content-type-options": "nosniff",
        },
    )


@cache
def _template() -> tuple[str, str]:
    """The page without a setup, and the policy that lets browsers run only what is in it."""
    text = Path(__file__).with_name("playground.html").read_text(encoding="utf-8")
    own = {kind: _digest(text, kind) for kind in ("script", "style")}
    policy = (
        f"default-src 'none'; script-src {own['script']}; style-src {own['style']}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return text, policy


def _digest(text: str, kind: str) -> str:
    (content,) = re.findall(rf"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
    digest = hashlib.sha256(content.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
