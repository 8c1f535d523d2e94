"""The command `allot record`."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from controller.backends.base import TEMPERATURE
from controller.backends.places import ModelPlace, read_menu
from controller.backends.prompts import REVISER, VERIFIER, read_prompts
from controller.bundled import bundled
from controller.errors import ConfigError
from controller.process.actions import Tier
from training.cli.flags import flag, with_flags
from training.cli.options import RayOptions, numbers

if TYPE_CHECKING:
    from training.record.cluster import Cluster
    from training.record.sources import Models

_MUCH_CUT = 0.2


@dataclass(frozen=True, kw_only=True)
class RecordOptions:
    """What to record of which models, and how.

    Attributes:
        out: directory of the trace set.
        small: [NAME=]PLACE: a directory, a GGUF file, a hub id or URL#MODEL of a server;
            repeatable. Default: the bundled model.
        large: the same.
        arm: NAME=PLACE,tier=small|large, with any of ,family=NAME ,body=JSON (further fields of
            each request) ,prompt=FILE|TEXT; repeatable.
        menu: YAML file of such arms, under `arms`.
        questions: JSONL, CSV or parquet with question and reference (and question_id, dataset,
            level, split); default: the bundled tasks.
        train_scale: so many times the train questions of the bundled set.
        limit: at most so many questions per split, spread evenly.
        samples: attempts per question by a small model.
        escalations: attempts per question by a large one.
        answers: of answers where a question names none, see docs/answers.md; default: auto.
        prompt: [NAME=]FILE|TEXT that models are asked with, all or one of them: {question} stands
            for the question; chat messages as JSON; repeatable.
        finish: end an unfinished recording: a set of the questions that are whole.
        reviser: adapter of the small model.
        verifier: adapter of the small model.
        revised_samples: samples that are revised, each up to four times in a row.
        max_new_tokens: longest attempt.
        temperature: of the sampling; 0 takes the likeliest tokens.
        attempt_deadline: minutes that a server's attempt may take.
        concurrency: requests to each server at the same time; default: as many as it says that it
            has room for, else 8.
        parameters: NAME=COUNT of models on servers that do not tell; repeatable.
        segment_controller: samples are written under it, segment by segment.
        segment_price: price that it is told.
        shard_questions: questions that local models answer side by side; what a kill can cost.
            Default: 128, or 8 where a model has more than 16 million parameters.
        device_map: with auto, the models' layers are spread over all GPUs.
        dtype: of weights: auto as stored, bfloat16, float32.
        compiled: by torch.compile; needs a C++ compiler, and a while.
        licence: of the recorded texts; noted in trace.json.
        cluster: that records.
        workers: on the cluster; default: as many as there is room for.
        worker_gpus: GPUs of each worker; 0.5 lets two share one.
        seed: everything random follows from it.
        as_json: print JSON instead of tables.
    """

    out: Path
    small: tuple[str, ...] = ()
    large: tuple[str, ...] = ()
    arm: tuple[str, ...] = ()
    menu: Path | None = None
    questions: Path | None = None
    train_scale: int = flag(1, min=1)
    limit: int | None = flag(None, min=1)
    samples: int = 16
    escalations: int = 2
    answers: str | None = flag(None, metavar="KIND")
    prompt: tuple[str, ...] = ()
    finish: bool = flag(False, "--finish")
    reviser: Path | None = None
    verifier: Path | None = None
    revised_samples: int = 0
    max_new_tokens: int = 192
    temperature: float = flag(TEMPERATURE, min=0)
    attempt_deadline: float = 30.0
    concurrency: int | None = None
    parameters: tuple[str, ...] = ()
    segment_controller: Path | None = None
    segment_price: float = 1e-3
    shard_questions: int | None = None
    device_map: str | None = None
    dtype: str = "auto"
    compiled: bool = False
    licence: str | None = None
    cluster: RayOptions
    workers: int | None = None
    worker_gpus: float = 0.0
    seed: int = 0
    as_json: bool = flag(False, "--json")


@with_flags(RecordOptions)
def record(options: RecordOptions) -> None:
    """Record attempts of models as a trace set; run again to resume or extend it."""
    o = options
    if o.finish:
        from training.record.recording import finish

        finish(o.out)
        _report(o.out, o.as_json)
        return
    places = _places(o)
    source = _source(o, places)
    asked = _questions(o)
    from training.record.plans import RecordConfig
    from training.record.progress import recording_view
    from training.record.sources import record_models

    config = RecordConfig(
        samples=o.samples,
        escalations=o.escalations,
        smalls=sum(place.tier is Tier.SMALL for place in places),
        revised_samples=o.revised_samples,
        shard_questions=o.shard_questions,
    )
    cluster: Cluster | None = o.cluster.cluster(o.workers, o.worker_gpus)
    notes = {"licence": o.licence} if o.licence else {}
    with recording_view(Console(stderr=True)) as view:
        record_models(
            asked, source, o.out, config, cluster, notes, lambda r: view.begin(*r.counts())
        )
    _report(o.out, o.as_json)


def _places(o: RecordOptions) -> list[ModelPlace]:
    """Arms, those of the small tier first."""
    small, large = o.small, o.large
    if not (small or large or o.arm or o.menu):
        small, large = (str(bundled("small")),), (str(bundled("large")),)
    elif not (small or o.arm or o.menu):
        small = (str(bundled("small")),)
    arms = [ModelPlace.parse(model) for model in o.arm]
    arms += read_menu(o.menu) if o.menu else ()
    for place in arms:
        if place.tier is None:
            raise ConfigError(f"arm {place.name}: expected tier=small or tier=large, found none")
    for tier, models in ((Tier.SMALL, small), (Tier.LARGE, large)):
        arms += [replace(ModelPlace.parse(model), tier=tier) for model in models]
    if not any(place.tier is Tier.SMALL for place in arms):
        raise ConfigError(
            f"arms: expected at least one of the small tier, found {[a.name for a in arms]}"
        )
    return sorted(arms, key=lambda place: place.tier is Tier.LARGE)


def _source(o: RecordOptions, places: list[ModelPlace]) -> Models:
    from training.record.sources import find_source

    adapters = {REVISER: o.reviser, VERIFIER: o.verifier}
    return find_source(
        places,
        prompts=read_prompts(o.prompt, [place.name for place in places]),
        adapters={name: path for name, path in adapters.items() if path is not None},
        parameters=numbers("parameters", o.parameters),
        max_new_tokens=o.max_new_tokens,
        temperature=o.temperature,
        seed=o.seed,
        concurrency=o.concurrency,
        deadline_s=60 * o.attempt_deadline,
        device_map=o.device_map or ("auto" if o.cluster.ray and o.worker_gpus else None),
        dtype=o.dtype,
        compiled=o.compiled,
        inside=(o.segment_controller, o.segment_price) if o.segment_controller else None,
    )


def _questions(o: RecordOptions) -> dict[str, Any]:
    """Questions by split."""
    from controller.answers import UNSTATED, load_kind
    from envs.questions.files import bundled_questions, read_questions
    from training.record.plans import spread

    if o.questions and o.train_scale > 1:
        raise ConfigError(
            f"train_scale: expected 1 with a file of questions, found {o.train_scale}; only "
            "bundled tasks can be drawn anew"
        )
    if o.answers and not o.questions:
        raise ConfigError(
            f"answers: expected a file of questions with it, found {o.answers!r} alone"
        )
    kind = load_kind(o.answers or UNSTATED).name
    by_split = (
        read_questions(o.questions, kind) if o.questions else bundled_questions(o.train_scale)
    )
    if o.limit is None:
        return by_split
    kept = {
        split: {q.question_id for q, _ in spread((q, split) for q in members)[: o.limit]}
        for split, members in by_split.items()
    }
    return {
        split: [q for q in members if q.question_id in kept[split]]
        for split, members in by_split.items()
    }


def _report(out: Path, as_json: bool) -> None:
    """Say what was recorded, and what may be wrong with it."""
    from envs.questions.answer_kinds import unread_warnings
    from envs.traces.format import TraceSet
    from training.record.progress import summary_table

    traces = TraceSet.read(out)
    manifest, summary = traces.manifest, traces.manifest["summary"]
    if as_json:
        keys = ("questions", "splits", "unfinished", "summary")
        print(json.dumps({key: manifest[key] for key in keys if key in manifest}, indent=1))
    else:
        console = Console()
        console.print(summary_table(summary))
        left = f" ({manifest['unfinished']} more are not whole)" if "unfinished" in manifest else ""
        console.print(f"{out}: {manifest['questions']} questions{left}", highlight=False)
    for message in unread_warnings(traces, list(summary)):
        warnings.warn(message, stacklevel=2)
    for model, found in summary.items():
        if found["cut"] > _MUCH_CUT:
            warnings.warn(
                f"{model}: {found['cut']:.0%} of its attempts were cut at their longest; allow "
                "longer ones (--max-new-tokens) in another directory, or ask for shorter ones "
                "(--prompt)",
                stacklevel=2,
            )
