"""`allot bench`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from controller.errors import ConfigError
from training.tables import print_figures, print_result

bench_app = typer.Typer(help="Measurements, each side by side in one run.", no_args_is_help=True)

MODELS = Path("checkpoints")
TRACES = Path("checkpoints/traces")
CONTROLLER = Path("checkpoints/controller")

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


@bench_app.command("generate")
def bench_generate(
    model: Annotated[
        str, typer.Option(help="Directory, GGUF file or hub id.")
    ] = "checkpoints/small",
    num_questions: Annotated[int, typer.Option(min=1, help="Questions.")] = 192,
    samples: Annotated[int, typer.Option(min=1, help="Of each question.")] = 16,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest attempt.")] = 192,
    temperature: Annotated[float, typer.Option(min=0, help="Of the sampling.")] = 1.0,
    question: Annotated[
        str | None, typer.Option(help="Ask this, instead of bundled questions.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Measurements of each, in turns.")] = 3,
    dtype: Annotated[str, typer.Option(help="Of weights: auto, bfloat16, float32.")] = "auto",
    as_json: Json = False,
) -> None:
    """Tokens/s against model.generate(num_return_sequences=SAMPLES)."""
    from training.bench import generation

    found = generation.run(
        model,
        num_questions,
        samples,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        num_repeats=repeats,
        dtype=dtype,
        question=question,
    )
    print_result(found, as_json)


@bench_app.command("all")
def bench_all(
    traces: Annotated[Path, typer.Option(help="Trace set.")] = TRACES,
    models: Annotated[Path, typer.Option(help="Directory of small and large.")] = MODELS,
    controller: Annotated[Path, typer.Option(help="Checkpoint.")] = CONTROLLER,
    rounds: Annotated[int, typer.Option(min=1, help="Medians over so many.")] = 3,
    only: Annotated[str, typer.Option(help="Names, separated by commas; default: all.")] = "",
    growth: Annotated[bool, typer.Option(help="How costs grow, as well.")] = True,
    as_json: Json = False,
) -> None:
    """All of them in turns, smaller than each by itself, and how costs grow."""
    from training.bench import everything
    from training.bench import growth as growing

    benches = everything.benches(traces, (models / "small", models / "large"), controller)
    names = _names(only) or tuple(benches)
    for name in names:
        if name not in benches:
            raise ConfigError(f"only: expected names among {list(benches)}, found {name!r}")
    note = Console(stderr=True)
    found = everything.run({name: benches[name] for name in names}, rounds, note.print)
    if growth:
        note.print("growth")
        found["growth"] = growing.run(traces, models / "small", controller)
    if as_json:
        print(json.dumps(found, indent=1))
        return
    Console().print(found["machine"])
    for title in ("figures", "growth"):
        if title in found:
            print_figures(title, found[title])


@bench_app.command("scale")
def bench_scale(
    traces: Annotated[Path, typer.Option(help="Trace set that is repeated.")] = TRACES,
    attempts: Annotated[int, typer.Option(help="Of the large set.")] = 10_000_000,
    as_json: Json = False,
) -> None:
    """Memory and steps/s of the vector environment on millions of attempts."""
    from training.bench import scale

    print_result(scale.run(traces, attempts), as_json)


@bench_app.command("record")
def bench_record(
    small: Annotated[str, typer.Option(help="Directory or hub id.")] = "checkpoints/small",
    large: Annotated[str, typer.Option(help="Directory or hub id.")] = "checkpoints/large",
    num_questions: Annotated[int, typer.Option(help="Questions, 9 attempts each.")] = 256,
    as_json: Json = False,
) -> None:
    """Attempts/s recorded in this process, and on one and two workers of a cluster."""
    from training.bench import recording

    print_result(recording.run((small, large), num_questions), as_json)


@bench_app.command("forward")
def bench_forward(
    model: Annotated[Path, typer.Option(help="Model directory.")] = Path("checkpoints/small"),
    num_questions: Annotated[int, typer.Option(help="Questions, 16 samples each.")] = 96,
    as_json: Json = False,
) -> None:
    """Tokens/s of generation against bare forward passes, and those against the processor."""
    from training.bench import forward

    print_result(forward.run(model, num_questions=num_questions), as_json)


@bench_app.command("env")
def bench_env(
    traces: Annotated[Path, typer.Option(help="Trace set.")] = TRACES,
    num_envs: Annotated[int, typer.Option(help="Episodes side by side.")] = 4096,
    as_json: Json = False,
) -> None:
    """Steps/s of the vector environment with random legal actions on one core."""
    from training.bench import environment

    print_result(environment.run(traces, num_envs), as_json)


@bench_app.command("ppo")
def bench_ppo(
    traces: Annotated[Path, typer.Option(help="Trace set.")] = TRACES,
    as_json: Json = False,
) -> None:
    """Steps/s and return against sb3-contrib's MaskablePPO."""
    from training.bench import ppo

    print_result(ppo.run(traces), as_json)


@bench_app.command("tracking")
def bench_tracking(
    traces: Annotated[Path, typer.Option(help="Trace set.")] = TRACES,
    as_json: Json = False,
) -> None:
    """Steps/s of a training with W&B offline against without."""
    from training.bench import tracking

    print_result(tracking.run(traces), as_json)


@bench_app.command("optimum")
def bench_optimum(
    seeds: Annotated[int, typer.Option(help="Trainings.")] = 5, as_json: Json = False
) -> None:
    """One checkpoint's utility against the exact optimum at 12 prices."""
    from training.bench import optimum

    print_result(optimum.run(seeds=seeds), as_json)


@bench_app.command("serve")
def bench_serve(
    controller: Annotated[Path, typer.Option(help="Checkpoint.")] = CONTROLLER,
    litellm: Annotated[
        Path | None, typer.Option(help="Virtual environment with litellm[proxy].")
    ] = None,
    clients: Annotated[int, typer.Option(help="Connections.")] = 64,
    rate: Annotated[float, typer.Option(help="Requests per second, all clients.")] = 64.0,
    seconds: Annotated[float, typer.Option(help="Per target and round.")] = 10.0,
    rounds: Annotated[int, typer.Option(help="Medians over so many.")] = 5,
    soak_minutes: Annotated[float, typer.Option(help="Instead: memory under load.")] = 0.0,
    as_json: Json = False,
) -> None:
    """Latency that the service adds, against going direct and LiteLLM's proxy."""
    from training.bench import serving
    from training.bench.load import Load

    load = Load(clients=clients, rate=rate, seconds=seconds)
    if soak_minutes:
        print_result(serving.soak(controller, minutes=soak_minutes, load=load), as_json)
        return
    found = serving.run(controller, litellm=litellm, load=load, rounds=rounds)
    print_result(found, as_json)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
