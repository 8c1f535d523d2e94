"""POST /v1/prepare: models read a context while nobody waits; its questions then cost less."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NoReturn

from pydantic import Field
from starlette.exceptions import HTTPException

from controller.backends.identity import text_digest
from controller.backends.openai.resilience import FILTERED, REJECTED, TOO_LONG
from controller.errors import BackendError, ConfigError
from controller.process.cost import Usage
from controller.process.types import Question
from controller.server.engine import Engine
from controller.server.limits import Budgets
from controller.server.ops import Metrics, service_log
from controller.server.schema import Strict, Text

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
