"""`allot serve` and `allot key`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from controller.backends.places import ModelPlace
from controller.bundled import bundled
from controller.errors import ConfigError
from training.cli.options import LargeModels, SmallModel


def serve(
    controller: Annotated[
        Path, typer.Option(help="Checkpoint.", show_default="the bundled one")
    ] = bundled("controller"),
    small: SmallModel = None,
    large: LargeModels = None,
    host: Annotated[str, typer.Option(help="Other than loopback needs --keys.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = 8080,
    keys: Annotated[Path | None, typer.Option(help="File of API keys, see `allot key`.")] = None,
    price: Annotated[
        float | None, typer.Option(help="Where an asker says nothing; default: mid-range.")
    ] = None,
    mean_cost: Annotated[
        float | None,
        typer.Option(help="Instead of a price: small-model tokens per question, kept over time."),
    ] = None,
    max_budget: Annotated[float | None, typer.Option(help="Cost of any question.")] = None,
    max_escalations: Annotated[int | None, typer.Option(help="Of any question.")] = None,
    escalations_per_minute: Annotated[float | None, typer.Option(help="Of all callers.")] = None,
    caller_escalations_per_minute: Annotated[float | None, typer.Option(help="Of each.")] = None,
    deadline_s: Annotated[float, typer.Option(help="Where an asker says nothing.")] = 120.0,
    max_in_flight: Annotated[int, typer.Option(help="Questions at a time.")] = 1024,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Longest attempt; default: as in training.")
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            help="[NAME=]FILE or TEXT: what models are asked with, {question} in it or after it; "
            "default: as recorded. Repeatable."
        ),
    ] = None,
    attempt_deadline: Annotated[
        float, typer.Option(help="Minutes that one attempt by a server may take.")
    ] = 1.0,
    upstream_n: Annotated[
        bool,
        typer.Option(help="Ask servers for several choices in one request, where they make them."),
    ] = True,
    upstream_stream: Annotated[
        bool, typer.Option(help="Stream from servers: cancelled tokens are counted.")
    ] = False,
    upstream_body: Annotated[
        str, typer.Option(help="JSON object: further fields of each request to servers.")
    ] = "{}",
    reviser: Annotated[
        str | None, typer.Option(help="Model on the small model's server that REVISE asks.")
    ] = None,
    answers: Annotated[
        str | None,
        typer.Option(metavar="KIND", help="Of answers, see docs/answers.md; default: as trained."),
    ] = None,
    equivalence: Annotated[
        str | None,
        typer.Option(help="URL#MODEL of a server of embeddings: close answers are the same."),
    ] = None,
    fallback: Annotated[
        str, typer.Option(help="Rule where the policy was never trained; none for no guard.")
    ] = "adaptive-cascade",
    always: Annotated[
        str | None, typer.Option(help="Rule that decides; the policy is only watched.")
    ] = None,
    variant: Annotated[
        list[str] | None, typer.Option(help="NAME=DIR:SHARE, another controller; repeatable.")
    ] = None,
    exploration: Annotated[
        float, typer.Option(help="Share of decisions drawn from the policy.")
    ] = 0.0,
    log: Annotated[Path | None, typer.Option(help="File of episodes; default: stderr.")] = None,
    log_texts: Annotated[
        bool, typer.Option(help="Write questions and attempts down, too.")
    ] = False,
    watch_s: Annotated[float, typer.Option(help="Look for new checkpoints; 0: on SIGHUP.")] = 5.0,
    drain_s: Annotated[float, typer.Option(help="Not ready for so long before the end.")] = 0.0,
    shutdown_s: Annotated[float, typer.Option(help="For requests to finish.")] = 30.0,
    telemetry: Annotated[bool, typer.Option(help="Spans by OTLP, see OTEL_*.")] = False,
) -> None:
    """Serve an OpenAI-compatible API in front of two or more models."""
    models = named_models(small, large)
    from controller.answers import load_kind
    from controller.backends.ladder import Upstream
    from controller.server.config import ServeConfig, Variant
    from controller.server.limits import Limits
    from controller.server.run import serve as run
    from training.learn.threads import limit_threads

    limit_threads()
    run(
        ServeConfig(
            controller=controller,
            models=models,
            host=host,
            port=port,
            keys=keys,
            price=price,
            mean_cost=mean_cost,
            limits=Limits(
                max_budget=max_budget,
                max_escalations=max_escalations,
                escalations_per_minute=escalations_per_minute,
                caller_escalations_per_minute=caller_escalations_per_minute,
                default_deadline_s=deadline_s,
                max_in_flight=max_in_flight,
            ),
            upstream=Upstream(
                asks_n=upstream_n,
                streams=upstream_stream,
                body=_json_object("upstream-body", upstream_body),
                reviser=reviser,
                attempt_deadline_s=60 * attempt_deadline,
            ),
            prompts=tuple(prompt or ()),
            max_new_tokens=max_new_tokens,
            answers=None if answers is None else load_kind(answers).name,
            equivalence=equivalence,
            fallback=None if fallback == "none" else fallback,
            always=always,
            variants=tuple(Variant.parse(text) for text in variant or ()),
            exploration=exploration,
            log=log,
            log_texts=log_texts,
            watch_s=watch_s,
            drain_s=drain_s,
            shutdown_s=shutdown_s,
            telemetry=telemetry,
        )
    )


def named_models(small: str | None, large: list[str] | None) -> tuple[str, ...]:
    """A ladder as options name it, none if they do not; checked before anything is imported.

    Raises:
        ConfigError: only one of the options, or a model that is not there.
    """
    models = (*([] if small is None else [small]), *(large or ()))
    for model in models:
        # A server is asked for the model that the controller was trained for by default.
        ModelPlace.parse(model, model="default")
    if (small is None) != (not large):
        raise ConfigError("models: expected both --small and --large, or neither")
    return models


def key(name: Annotated[str, typer.Argument(help="Who will use it.")]) -> None:
    """Make an API key: the key for its owner, the line for the service's file."""
    from controller.server.keys import key_digest, new_key

    made = new_key()
    print(f"key   {made}\nline  {name} {key_digest(made)}")


def _json_object(option: str, text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise ConfigError(f"{option}: expected a JSON object, found {text!r}")
    return found
