"""The command `allot record`."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from controller.backends.places import ModelPlace, read_menu
from controller.backends.prompts import REVISER, VERIFIER, read_prompts
from controller.bundled import bundled
from controller.errors import ConfigError
from controller.process.actions import Tier
from training.cli.flags import flag, with_flags
from training.cli.options import RayOptions, numbers
from training.record.settings import Amount, Decoding, RecordConfig

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
            each request) ,prompt=FILE|TEXT ,revises=true ,verifies=true; repeatable.
        menu: YAML file of such arms, under `arms`.
        questions: JSONL, CSV or parquet with question and reference (and question_id, dataset,
            level, split); default: the bundled tasks.
        train_scale: so many times the train questions of the bundled set.
        limit: at most so many questions per split, spread evenly.
        amount: of attempts.
        answers: of answers where a question names none, see docs/answers.md; default: auto.
        prompt: [NAME=]FILE|TEXT that models are asked with, all or one of them: {question} stands
            for the question; chat messages as JSON; repeatable.
        finish: end an unfinished recording: a set of the questions that are whole.
        reviser: adapter of the small model.
        verifier: adapter of the small model.
        decoding: by the models.
        parameters: NAME=COUNT of models on servers that do not tell; repeatable.
        segment_controller: samples are written under it, segment by segment.
        segment_price: price that it is told.
        licence: of the recorded texts; noted in trace.json.
        cluster: that records.
        workers: on the cluster; default: as many as there is room for.
        worker_gpus: GPUs of each worker; 0.5 lets two share one.
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
    amount: Amount
    answers: str | None = flag(None, metavar="KIND")
    prompt: tuple[str, ...] = ()
    finish: bool = flag(False, "--finish")
    reviser: Path | None = None
    verifier: Path | None = None
    decoding: Decoding
    parameters: tuple[str, ...] = ()
    segment_controller: Path | None = None
    segment_price: float = 1e-3
    licence: str | None = None
    cluster: RayOptions
    workers: int | None = None
    worker_gpus: float = 0.0
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
    from training.record.progress import recording_view
    from training.record.sources import record_models

    if o.reviser and any(place.revises for place in places[1:]) and not places[0].revises:
        raise ConfigError(
            f"reviser: expected the first arm, {places[0].name}, to be one that revises, found "
            "others alone; say revises=true of it, or leave the adapter out"
        )
    smalls = sum(place.tier is Tier.SMALL for place in places)
    revisers = tuple(rung for rung, place in enumerate(places) if place.revises)
    revised = o.amount.revised_samples
    if revised == 0 and revisers:
        raise ConfigError(
            f"revised_samples: expected at least 1 with arms that revise, "
            f"{[places[rung].name for rung in revisers]}, found 0"
        )
    amount = vars(o.amount) | {
        "revised_samples": min(1, len(revisers)) if revised is None else revised
    }
    config = RecordConfig(
        **amount, smalls=smalls, revisers=revisers, verifier=the_verifier(places, o.verifier)
    )
    cluster: Cluster | None = o.cluster.cluster(o.workers, o.worker_gpus)
    notes = {"licence": o.licence} if o.licence else {}
    with recording_view(Console(stderr=True)) as view:
        record_models(
            asked, source, o.out, config, cluster, notes, lambda r: view.begin(*r.counts())
        )
    _report(o.out, o.as_json)


def the_verifier(places: list[ModelPlace], adapter: Path | None) -> int | None:
    """Rung of the arm that verifies."""
    judges = [rung for rung, place in enumerate(places) if place.verifies]
    if len(judges) + bool(adapter) > 1:
        raise ConfigError(
            "verifies: expected one verifier, an arm or the first model's adapter, found "
            f"{[places[rung].name for rung in judges]}{f' and {adapter}' if adapter else ''}"
        )
    return next(iter(judges), None)


def _places(o: RecordOptions) -> list[ModelPlace]:
    """Arms, those of the small tier first."""
    given = o.arm or o.menu
    small = o.small or (() if given else (str(bundled("small")),))
    large = o.large or (() if given or o.small else (str(bundled("large")),))
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

    adapters, decoding = {REVISER: o.reviser, VERIFIER: o.verifier}, o.decoding
    if o.cluster.ray and o.worker_gpus and decoding.device_map is None:
        decoding = replace(decoding, device_map="auto")
    return find_source(
        places,
        prompts=read_prompts(o.prompt, [place.name for place in places]),
        adapters={name: path for name, path in adapters.items() if path is not None},
        parameters=numbers("parameters", o.parameters),
        inside=(o.segment_controller, o.segment_price) if o.segment_controller else None,
        **vars(decoding),
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
    for split, members in by_split.items():
        kept = {q.question_id for q, _ in spread((q, split) for q in members)[: o.limit]}
        by_split[split] = [q for q in members if q.question_id in kept]
    return by_split


def _report(out: Path, as_json: bool) -> None:
    """Say what was recorded, and what may be wrong with it."""
    from envs.traces.format import TraceSet
    from envs.traces.summary import answer_warnings
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
    for message in answer_warnings(traces, list(summary)):
        warnings.warn(message, stacklevel=2)
    for model, found in summary.items():
        if found["cut"] > _MUCH_CUT:
            warnings.warn(
                f"{model}: {found['cut']:.0%} of its attempts were cut at their longest; allow "
                "longer ones (--max-new-tokens) in another directory, or ask for shorter ones "
                "(--prompt)",
                stacklevel=2,
            )
