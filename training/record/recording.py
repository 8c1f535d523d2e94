"""Records what language models really wrote, as a trace set.

A recording is what was planned, and the parts of it that are on disk. Whatever it lacks is asked
of the models; what they write is on disk within a minute. So a recording that is killed at any
moment goes on, a finished one can be extended, and one that takes too long can be finished early.
An attempt follows from its question, its number and the seed: it does not matter who records it,
when, or after what.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from controller.answers import UNSTATED
from controller.backends.prompts import VERIFIER
from controller.checkpoint import seen_from
from controller.errors import ConfigError
from controller.files import write_json
from controller.process.types import ModelSpec, Question
from envs.questions.files import noted_kinds
from envs.traces.format import MANIFEST, TRACE_VERSION, TraceSet, tables_digest, write_table
from training.record.parts import SCHEMAS, Parts, Rows, locked
from training.record.plans import Missing, Plan, question_row
from training.record.progress import Watch, summary
from training.record.recorders import Recorder
from training.record.settings import RecordConfig

if TYPE_CHECKING:
    from controller.backends.local.model import LocalModel

_BLOCK_SHARDS = 4
"""Shards of questions that are answered before their attempts are revised and judged."""


class Recording:
    """One recording into a directory: begun, resumed or extended.

    `notes` are added to `trace.json` (decoding settings, licence); `models` and `adapters` among
    them say where these are, by name, and what else there is to note of models.
    """

    def __init__(
        self,
        questions: Mapping[str, Sequence[Question]],
        recorder: Recorder,
        out: Path,
        notes: Mapping[str, Any],
    ) -> None:
        amount, models = recorder.config, recorder.models
        self.recorder, self.parts = recorder, Parts(out)
        self.speeds: dict[str, float] = {}
        asked = tuple(
            (replace(question, answers=question.answers or UNSTATED), split)
            for split, members in questions.items()
            for question in members
        )
        kinds = {"answers": noted_kinds(question for question, _ in asked)}
        manifest = planned_manifest(amount, models, notes) | kinds
        self.plan = Plan(questions=asked, wanted=amount.wanted(models), manifest=manifest)

    def run(self, progress: Callable[[Recording], Watch] | None = None) -> None:
        """Record what is missing, which `progress` is shown, then write the trace set.

        Raises:
            ConfigError: `out` holds something else, or another process records there.
        """
        parts = self.parts
        with locked(parts.out):
            self.plan = self.plan.continued(parts)
            missing, left = self.missing(), (self.plan.unrevised, self.plan.unscored)
            if not (missing or any(of(parts) for of in left) or parts.work.exists()):
                return
            self.plan.write(parts)
            add = self._adder(progress(self) if progress else lambda rows: None)
            # Questions are made whole in turn, so that what is there at any time is a set.
            block = len(missing) or 1
            if self.plan.revisers or self.plan.verifier:
                block = _BLOCK_SHARDS * self.recorder.config.shard_size(self.recorder.models)
            try:
                self._go_on((), add)
                for begin in range(0, len(missing), block):
                    whole = parts.paths("attempts")
                    self._go_on(missing[begin : begin + block], add, whole)
            finally:
                parts.flush()
            write_set(self.plan, parts, self.speeds)

    def _go_on(self, missing: Sequence[Missing], add: Watch, whole: Sequence[Path] = ()) -> None:
        """Record what is missing, then revisions and judgements of what is there.

        Those of attempts in `whole` files have been recorded.
        """
        for lacking in (lambda *_: missing, self.plan.unrevised, self.plan.unscored):
            if left := lacking(self.parts, whole):
                self.recorder.record(left, add)
                self.parts.flush()

    def _adder(self, watch: Watch) -> Watch:
        shard = self.recorder.config.shard_size(self.recorder.models)
        most = shard * sum(self.plan.wanted.values())
        started, tokens = time.monotonic(), Counter[str]()

        def add(rows: Mapping[str, Rows]) -> None:
            self.parts.add(rows, most)
            for row in rows.get("attempts", ()):
                tokens[row["model"]] += row["completion_tokens"]
            seconds = time.monotonic() - started
            self.speeds.update({model: count / seconds for model, count in tokens.items()})
            watch(rows)

        return add

    def missing(self) -> list[Missing]:
        """What is not on disk yet, spread over splits, data sets and levels."""
        return self.plan.missing(self.parts)

    def counts(self) -> tuple[int, int]:
        """Attempts, revisions and judgements that are wanted, and those that are missing."""
        config, plan = self.recorder.config, self.plan
        each = len(plan.revisers) or config.revision_depth
        revised = [*plan.wanted] if plan.revisers else [*plan.wanted][:1]

        def with_revisions(indices: Mapping[str, Iterable[int]]) -> int:
            first = [i < config.revised_samples for name in revised for i in indices.get(name, ())]
            return sum(len([*i]) for i in indices.values()) + each * sum(first)

        whole = with_revisions({name: range(count) for name, count in plan.wanted.items()})
        left = sum(with_revisions(missing.indices) for missing in self.missing())
        left += sum(missing.count() for missing in plan.unrevised(self.parts))
        if plan.verifier:
            whole, left = 2 * whole, 2 * left + sum(m.count() for m in plan.unscored(self.parts))
        return len(plan.questions) * whole, left


def finish(out: Path) -> None:
    """End a recording of attempts early: a set of the questions that have all of theirs.

    What other questions have stays aside, for the recording to be continued some time.
    """
    parts = Parts(out)
    with locked(out):
        write_set(Plan.read(parts), parts, {})


def write_set(plan: Plan, parts: Parts, speeds: Mapping[str, float]) -> None:
    """Put the parts together; `trace.json`, last, makes the set valid.

    Raises:
        ConfigError: not one question has all of its attempts.
    """
    lacking = (*plan.missing(parts), *plan.unrevised(parts), *plan.unscored(parts))
    missing = {one.question.question_id for one in lacking}
    whole = [asked for asked in plan.questions if asked[0].question_id not in missing]
    if not whole:
        raise ConfigError(
            f"{parts.out}: expected a question with all of its attempts, found none yet; record "
            "for longer, or ask for less"
        )
    described = parts.described()
    rows = [question_row(q, split) for q, split in whole if q.question_id not in described]
    parts.add({"questions": rows})
    parts.flush()
    left = parts.put_together([q.question_id for q, _ in whole], list(plan.wanted))
    manifest = {
        **plan.manifest,
        "digest": tables_digest(parts.out, [f"{table}.parquet" for table in SCHEMAS]),
        "questions": len(whole),
        "splits": dict(Counter(split for _, split in whole)),
        "summary": summary(parts.out, speeds),
        **({"unfinished": len(missing)} if missing else {}),
    }
    write_json(parts.out / MANIFEST, manifest)
    parts.clear(left)


def planned_manifest(
    amount: RecordConfig, models: Sequence[ModelSpec], notes: Mapping[str, Any]
) -> dict[str, Any]:
    """What `trace.json` says that is known beforehand, `notes` of a `Recording` among it."""
    told, paths = notes.get("models", {}), notes.get("adapters", {})
    entries: dict[str, dict[str, Any]] = {}
    for rung, model in enumerate(models):
        adapters = {
            a.name: {"parameters": a.parameters, "digest": a.digest, "path": paths.get(a.name)}
            for a in model.adapters
        }
        entries[model.name] = {
            "tier": amount.tier(rung),
            "parameters": model.parameters,
            "max_new_tokens": model.max_new_tokens,
            "digest": model.digest,
            "path": None,
            **({"prompt": list(model.prompt)} if model.prompt else {}),
            **({"revises": True} if rung in amount.revisers else {}),
            **({"verifies": True} if rung == amount.verifier else {}),
            **told.get(model.name, {}),
            "adapters": adapters,
        }
    others = {name: note for name, note in notes.items() if name not in ("models", "adapters")}
    return {"version": TRACE_VERSION, "models": entries, "recorded": asdict(amount), **others}


def add_scores(
    traces: TraceSet,
    small: str | Path,
    verifier: Path,
    out: Path,
    progress: Callable[[int, int], None] = lambda done, all_: None,
) -> int:
    """Write a trace set again with a verifier's scores of the small model's attempts.

    Scores that it has are replaced; `progress` hears how many of all attempts are scored. Until the
    end scores lie in `out/training`, where the same call finds them.

    Returns:
        How many attempts were scored.

    Raises:
        ConfigError: `out` holds a trace set, or the set's small model is another one.
    """
    import torch

    from controller.backends.local.adapters import load_adapters, score_attempts
    from controller.backends.local.model import load_model
    from training.learn.resume import made_in_parts, work_directory
    from training.learn.threads import limit_threads

    if (out / MANIFEST).exists():
        raise ConfigError(f"{out}: expected no trace set there yet; choose another directory")
    local = load_adapters(load_model(small, 0), {VERIFIER: verifier})
    limit_threads(local.parameters)
    entry = traces.manifest.get("models", {}).get(local.name)
    if entry is None or entry.get("digest") not in (None, local.digest):
        raise ConfigError(
            f"{traces.path}: expected attempts by {local.name} with digest {local.digest}, found "
            f"{entry and entry.get('digest')}; verify them with the model that wrote them"
        )
    attempts = traces.attempts
    named = ("question_id", "model", "text", "error", "mean_logprob", "min_logprob")
    held = attempts.select([name for name in named if name in attempts.column_names]).to_pandas()
    held = held.reindex(columns=list(named))
    rows = held[held["model"].eq(local.name) & held["text"].notna() & held["error"].isna()]
    if rows.empty:
        raise ConfigError(
            f"{traces.path}: expected attempts by {local.name} with their texts, found none"
        )
    scores, questions = np.full(len(attempts), np.nan), traces.questions
    columns = (questions[name].to_pylist() for name in ("question_id", "question"))
    asked = dict(zip(*columns, strict=True))
    (spec,) = local.adapters

    def scored(some: slice) -> torch.Tensor:
        part = rows.iloc[some]
        pairs = zip(part["question_id"], part["text"], strict=True)
        texts = [local.encode_attempt(asked[question], text) for question, text in pairs]
        logprobs = part[["mean_logprob", "min_logprob"]].to_numpy(np.float32, copy=True)
        told = score_attempts(local, texts, torch.from_numpy(logprobs))
        return torch.tensor(told, dtype=torch.float64)

    work, count = work_directory(out, spec.digest, tables_digest(traces.path)), len(rows)
    made = made_in_parts(count, work, scored, lambda done: progress(done, count))
    scores[rows.index] = made.numpy()
    kept = attempts.select([n for n in attempts.column_names if n != "verifier_score"])
    column = pa.array(scores, pa.float32(), from_pandas=True)
    write_table(out / "questions.parquet", traces.questions)
    write_table(out / "attempts.parquet", kept.append_column("verifier_score", column))
    write_json(out / MANIFEST, _rewritten_manifest(traces, local, verifier, out))
    shutil.rmtree(out / "training")
    return len(rows)


def _rewritten_manifest(
    traces: TraceSet, local: LocalModel, verifier: Path, out: Path
) -> dict[str, Any]:
    """`trace.json` as seen from the new directory, with the verifier's entry."""
    manifest: dict[str, Any] = json.loads(json.dumps(traces.manifest))
    for entry in manifest["models"].values():
        for each in (entry, *entry.get("adapters", {}).values()):
            if each.get("path") is not None:
                each["path"] = seen_from(out, traces.path, each["path"])
    (spec,) = local.adapters
    manifest["models"][local.name].setdefault("adapters", {})[VERIFIER] = {
        "parameters": spec.parameters,
        "digest": spec.digest,
        "path": seen_from(out, Path(), verifier),
    }
    return manifest | {"digest": tables_digest(out)}
