"""The small model's adapters: revisers and verifiers, by LoRA.

A reviser turns the model's attempts into better ones. It learns from recorded attempts, as in
Snell et al. 2024 (arXiv 2408.03314, section 6): from a wrong attempt to a right one close to it,
and from a right attempt to itself, so that it learns to leave well alone.

A verifier knows better what the model should have written. It learns the worked solutions of
questions, most of all the tokens at which recorded attempts go wrong. Its score of an attempt, one
forward pass over question and attempt, is made of how likely it finds the attempt's tokens, and
calibrated on other questions by logistic regression (Platt 1999) together with what the writer
itself thought of them. Why not a head on the last hidden state: docs/decisions/0008. Of a model
that knows more than the bundled one, a read-out of its own hidden states tells as well, for one
pass over the attempts and no training of the model.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from difflib import SequenceMatcher
from functools import partial
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from controller.backends.base import Request, run_now
from controller.backends.local.adapters import (
    attempt_states,
    judge,
    load_adapters,
    probability,
    save_adapter,
    token_logprobs,
)
from controller.backends.local.backend import LocalBackend
from controller.backends.local.kv import batches_by_length, padded
from controller.backends.local.model import (
    Encoded,
    LocalModel,
    StateReadout,
    load_model,
    prompt_key,
)
from controller.backends.places import ModelPlace
from controller.backends.prompts import REVISER, revision_messages
from controller.errors import ConfigError
from controller.process.actions import ActionKind
from controller.process.lockstep import Bools, Floats, Ints, Singles
from controller.process.types import Question
from envs.questions.grader import KindGrader
from envs.traces.format import TraceSet, tables_digest
from envs.traces.recorded import read_recorded
from training.learn.calibration import (
    auroc,
    auroc_within,
    calibrate,
    expected_calibration_error,
    fit_state_readout,
)
from training.learn.difficulty import FOLDS, fold_of
from training.learn.resume import has_state, load_state, made_in_parts, save_state, work_directory
from training.learn.threads import limit_threads

Example = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class AttemptText:
    """One attempt of the small model; `logprobs` are the mean and the least one of its tokens."""

    question: str
    text: str
    right: bool
    logprobs: tuple[float, float]


AttemptGroup = tuple[str, list[AttemptText]]
"""Question id and the attempts at that question."""

WorkedSolutions = Callable[[str], Sequence[str]]
"""Texts that could have been written, by question id, the shortest first; none if nobody knows."""

_LOGITS = 2**27
"""Of a training step at most: 512 MiB."""

_STEPS, _LEAST_BATCH = 100, 8
"""Optimiser steps that a reviser is given where batches of so many examples leave them."""


def right_texts(traces: TraceSet) -> WorkedSolutions:
    """Solutions for lack of better ones: each model's shortest right attempt at a question."""
    columns = ["question_id", "model", "correct", "text"]
    held = traces.attempts.select(columns).to_pandas()
    held = held[held["correct"] & held["text"].notna()]
    held = held.loc[held["text"].str.len().sort_values(kind="stable").index]
    best = held.drop_duplicates(["question_id", "model"])
    known = best.groupby("question_id", sort=False)["text"].agg(list).to_dict()
    return lambda question_id: known.get(question_id, ())


def distinct(attempts: Iterable[AttemptText]) -> list[AttemptText]:
    """The first attempt with each text."""
    return list({attempt.text: attempt for attempt in reversed(list(attempts))}.values())[::-1]


def attempts_by_question(traces: TraceSet, split: str, model: str) -> Iterator[AttemptGroup]:
    """A model's attempts at each question of a split, with the question's id."""
    texts = {
        row["question_id"]: row["question"]
        for row in traces.questions.select(["question_id", "question", "split"]).to_pylist()
        if row["split"] == split
    }
    grouped: dict[str, list[AttemptText]] = {question_id: [] for question_id in texts}
    for row in traces.attempts.to_pylist():
        question_id = row["question_id"]
        own = row["model"] == model and question_id in grouped
        if own and row["error"] is None and row["text"] is not None:
            grouped[question_id].append(
                AttemptText(
                    question=texts[question_id],
                    text=row["text"],
                    right=row["correct"],
                    logprobs=(row["mean_logprob"], row["min_logprob"]),
                )
            )
    yield from grouped.items()


def with_lora(model: Any, rank: int, seed: int) -> Any:
    """A model with fresh LoRA matrices beside all of its linear layers, ready to be trained."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return get_peft_model(model, config)


def _similarity(attempt: str, solution: str) -> float:
    """How much of a solution an attempt has, 0..1."""
    return SequenceMatcher(None, attempt, solution, autojunk=False).ratio()


@dataclass(frozen=True, kw_only=True)
class ReviserConfig:
    """Training of the reviser.

    Attributes:
        rank: of the LoRA matrices.
        epochs: passes over the examples.
        batch_size: examples per optimiser step; down to 8 where that leaves under 100 steps.
        muon_lr: peak; falls along a cosine.
        wrong_per_question: wrong attempts used, those closest to the solution.
        right_per_question: right attempts used.
        seed: of weights and order.
    """

    rank: int = 32
    epochs: float = 4
    batch_size: int = 64
    muon_lr: float = 0.003
    wrong_per_question: int = 2
    right_per_question: int = 2
    seed: int = 0


def revision_examples(
    traces: TraceSet,
    split: str,
    worked_solutions: WorkedSolutions,
    config: ReviserConfig,
    local: LocalModel,
) -> Iterator[Example]:
    """Prompt and completion, as chat messages, for each revision to learn."""
    for question_id, attempts in attempts_by_question(traces, split, local.name):
        solutions = worked_solutions(question_id)
        if not solutions:
            continue
        tried = distinct(attempts)
        pairs = [
            (attempt, max((_similarity(attempt.text, text), text) for text in solutions))
            for attempt in tried
            if not attempt.right
        ]
        pairs.sort(key=lambda pair: -pair[1][0])
        right = [a for a in tried if a.right]
        learnt = [(attempt, text) for attempt, (_, text) in pairs[: config.wrong_per_question]]
        learnt += [(attempt, attempt.text) for attempt in right[: config.right_per_question]]
        for attempt, target in learnt:
            asked = Question(question_id=question_id, text=attempt.question)
            yield {
                "prompt": revision_messages(asked, attempt.text, local.prompt),
                "completion": [{"role": "assistant", "content": target}],
            }


def _loaded(base: str | Path | ModelPlace) -> LocalModel:
    """A model, and as many threads as it gains by."""
    local = load_model(base, 0)
    limit_threads(local.parameters)
    return local


def _asked_as_recorded(local: LocalModel, traces: TraceSet) -> LocalModel:
    """A model with the prompt that made its attempts in a set."""
    return replace(local, prompt=traces.models([local.name])[0].prompt)


def train_reviser(
    base: str | Path | ModelPlace,
    traces: TraceSet,
    worked_solutions: WorkedSolutions,
    out: Path,
    config: ReviserConfig | None = None,
) -> None:
    """Train a reviser of the model `base`, from its attempts with their texts, into `out`.

    The set knows the model by its name, and how it was asked. `worked_solutions` are of each
    question of the train split; `training` in `out` holds what resuming needs.

    Raises:
        ConfigError: there is nothing to learn from.
    """
    from datasets import Dataset
    from transformers.trainer_utils import get_last_checkpoint
    from trl import SFTConfig, SFTTrainer

    config = config or ReviserConfig()
    local = _asked_as_recorded(_loaded(base), traces)
    state = work_directory(out, config, local.digest, local.prompt, tables_digest(traces.path))
    examples = list(revision_examples(traces, "train", worked_solutions, config, local))
    if not examples:
        raise ConfigError(
            f"{traces.path}: expected attempts of the train split with their texts, and right ones "
            "among them, to learn revising from; found none"
        )
    longest = max(
        len(local.encode_chat([*example["prompt"], *example["completion"]], complete=True))
        for example in examples
    )
    of_step = int(len(examples) * config.epochs / _STEPS)
    of_step = min(config.batch_size, max(_LEAST_BATCH, of_step))
    batch = of_step
    while batch > 1 and batch * longest * local.model.config.get_text_config().vocab_size > _LOGITS:
        batch //= 2
    trainer = SFTTrainer(
        model=with_lora(local.model, config.rank, config.seed),
        args=SFTConfig(
            output_dir=str(state),
            num_train_epochs=config.epochs,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=of_step // batch,
            learning_rate=config.muon_lr,
            lr_scheduler_type="cosine",
            warmup_steps=0.05,
            train_sampling_strategy="group_by_length",
            save_steps=0.05,
            save_total_limit=1,
            logging_steps=0.05,
            report_to="none",
            use_cpu=not torch.cuda.is_available(),
            bf16=False,
            gradient_checkpointing=False,
            seed=config.seed,
        ),
        train_dataset=Dataset.from_list(examples),
        processing_class=local.tokenizer,
        optimizer_cls_and_kwargs=(
            torch.optim.Muon,
            {"lr": config.muon_lr, "momentum": 0.95, "weight_decay": 0.0},
        ),
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(state) if state.exists() else None)
    save_adapter(trainer.model, out, base_digest=local.digest)


@dataclass(frozen=True, kw_only=True)
class VerifierConfig:
    """Training of the verifier.

    Attributes:
        rank: of the LoRA matrices.
        epochs: passes over the questions.
        learning_rate: peak, of Muon; falls along a cosine.
        error_weight: of a token at which every attempt goes wrong, relative to one at which
            none does, less 1.
        save_every: optimiser steps between saved states.
        seed: of weights and order.
    """

    rank: int = 32
    epochs: int = 12
    learning_rate: float = 0.01
    error_weight: float = 10.0
    save_every: int = 500
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """A question with its worked solution: L tokens, and how much each counts, (L,)."""

    tokens: tuple[int, ...]
    weights: Singles


@dataclass(frozen=True, kw_only=True)
class Graded:
    """n attempts, `right` (n,), `logprobs` (n, 2) and number of the `question`, (n,), in order."""

    texts: list[Encoded]
    right: Bools
    logprobs: Floats
    question: Ints


def lesson(
    group: AttemptGroup, worked_solution: str, local: LocalModel, error_weight: float
) -> Lesson:
    """What recorded attempts at one question teach."""
    _, attempts = group
    question = attempts[0].question
    solution = local.encode_attempt(question, worked_solution)
    weights = np.zeros(len(solution.tokens), np.float32)  # (L,)
    weights[solution.begin :] = 1.0
    for attempt in attempts:
        if not attempt.right:
            written = local.encode_attempt(question, attempt.text).tokens
            error = _first_difference(written, solution.tokens)
            weights[error] += error_weight / len(attempts)
    return Lesson(tokens=solution.tokens, weights=weights)


def _first_difference(written: tuple[int, ...], solution: tuple[int, ...]) -> int:
    """Position of the first token of a solution that was not written; the last one at most."""
    pairs = enumerate(zip(written, solution, strict=False))
    return next((i for i, (ours, right) in pairs if ours != right), len(solution) - 1)


def graded_attempts(groups: Iterable[AttemptGroup], local: LocalModel) -> Graded:
    """Recorded attempts, question by question, ready for the verifier."""
    attempts, question = [], []
    for number, (_, group) in enumerate(groups):
        attempts += group
        question += [number] * len(group)
    return Graded(
        texts=[local.encode_attempt(a.question, a.text) for a in attempts],
        right=np.array([a.right for a in attempts]),
        logprobs=np.array([a.logprobs for a in attempts], np.float64).reshape(-1, 2),
        question=np.array(question, np.int64),
    )


class VerifierTraining:
    """One training of a verifier of the model `base`, begun or resumed, into `out`.

    It learns from attempts that the sets have under the model's name, and the first worked
    solution of each question of the train split; `out/training` holds what resuming needs.
    """

    def __init__(
        self,
        base: str | Path | ModelPlace,
        traces: Sequence[TraceSet],
        worked_solutions: WorkedSolutions,
        out: Path,
        config: VerifierConfig | None = None,
    ) -> None:
        self.config, self.out = config or VerifierConfig(), out
        self.local = _loaded(base)
        known, new = (
            [group for t in traces for group in attempts_by_question(t, split, self.local.name)]
            for split in ("train", "validation")
        )
        self.lessons = [
            lesson(group, solutions[0], self.local, self.config.error_weight)
            for group in known
            if group[1] and (solutions := worked_solutions(group[0]))
        ]
        self.validation = graded_attempts(new, self.local)
        self.model = with_lora(self.local.model, self.config.rank, self.config.seed)
        self.trained = nn.ParameterList(p for p in self.model.parameters() if p.requires_grad)
        self.optimizer = torch.optim.Muon(
            list(self.trained), lr=self.config.learning_rate, momentum=0.95, weight_decay=0.0
        )
        self.step = 0
        if has_state(out / "training"):
            progress, _ = load_state(out / "training", self.trained, [self.optimizer])
            self.step = progress["step"]

    def _batches(self, epoch: int) -> list[list[int]]:
        """Positions of the lessons of each batch of an epoch; of about equal lengths."""
        rng = np.random.default_rng((self.config.seed, epoch))
        order = rng.permutation(len(self.lessons))
        lengths = [len(self.lessons[i].tokens) for i in order]
        batches = [order[batch].tolist() for batch in batches_by_length(lengths)]
        return [batches[i] for i in rng.permutation(len(batches))]

    def run(self, progress: Callable[[float, float], None] | None = None) -> dict[str, float]:
        """Train, calibrate and save; `progress` hears of the share that is done and the loss.

        Returns:
            `auroc`, the same within questions, and `ece`, on the validation split.
        """
        self.model.train()
        step = 0
        for epoch in range(self.config.epochs):
            batches = self._batches(epoch)
            total = len(batches) * self.config.epochs
            for batch in batches:
                step += 1
                if step <= self.step:
                    continue
                loss = self._learn(batch, step / total)
                self.step = step
                if step % self.config.save_every == 0:
                    self._save_state()
                if progress is not None and step % 20 == 0:
                    progress(step / total, loss)
        self._save_state()
        return self._finish()

    def _save_state(self) -> None:
        progress = {"step": self.step, "config": asdict(self.config)}
        save_state(self.out / "training", self.trained, [self.optimizer], progress)

    def _learn(self, batch: list[int], done: float) -> float:
        lessons = [self.lessons[i] for i in batch]
        inputs, _ = padded([each.tokens for each in lessons], self.model.device)
        logits = self.model(**inputs, use_cache=False).logits  # (B, L, V)
        weights = pad_sequence([torch.from_numpy(each.weights) for each in lessons], True)  # (B, L)
        weights = weights.to(logits.device)
        errors = -token_logprobs(logits, inputs["input_ids"])  # (B, L - 1)
        loss = (errors * weights[:, 1:]).sum() / weights.sum()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.trained.parameters(), 1.0)
        rate = min(1.0, done * 50) * 0.5 * (1 + math.cos(math.pi * done))
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * rate
        self.optimizer.step()  # type: ignore[no-untyped-call]
        self.optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    def _finish(self) -> dict[str, float]:
        self.model.eval()
        known = self.validation
        judged = judge(self.model, known.texts, "default")
        score = calibrate(judged.double().numpy(), known.logprobs, known.right, known.question)
        save_adapter(self.model, self.out, base_digest=self.local.digest, score=score)
        right = probability(score, judged, torch.from_numpy(known.logprobs).float()).numpy()
        return _measured(right, known)


def _measured(probability: Floats, graded: Graded) -> dict[str, float]:
    return {
        "auroc": auroc(probability, graded.right),
        "auroc_within": auroc_within(probability, graded.right, graded.question),
        "ece": expected_calibration_error(probability, graded.right),
    }


def train_readout(
    base: str | Path | ModelPlace,
    traces: TraceSet,
    out: Path,
    *,
    samples: int = 4,
    progress: Callable[[int, int], None] = lambda done, all_: None,
) -> dict[str, float]:
    """Fit a verifier of the model `base` that reads its hidden states, into `out`.

    It learns from `samples` attempts of the model, by its name in the set, at each question of the
    train split and is calibrated on the validation split; `out/training` holds the states until the
    end. `progress` hears how many of all attempts were read.

    Returns:
        `auroc`, the same within questions, and `ece`, on the validation split.

    Raises:
        ConfigError: there are no right or no wrong attempts with their texts.
    """
    local = _loaded(base)
    parts = []
    for split in ("train", "validation"):
        groups = attempts_by_question(traces, split, local.name)
        parts.append(graded_attempts([(name, tried[:samples]) for name, tried in groups], local))
    for part, split in zip(parts, ("train", "validation"), strict=True):
        if part.right.all() or not part.right.any():
            raise ConfigError(
                f"{traces.path}: expected right and wrong attempts by {local.name} with their "
                f"texts in the {split} split, found {int(part.right.sum())} of {len(part.right)} "
                "right; call the model as the set does: --model NAME=PLACE"
            )
    read = sum(len(part.texts) for part in parts)
    work = work_directory(out, local.digest, tables_digest(traces.path), samples)

    def states_of(part: Graded, name: str, before: int) -> Tensor:
        return made_in_parts(
            len(part.texts),
            work / name,
            lambda rows: attempt_states(local.model, part.texts[rows]),
            lambda done: progress(before + done, read),
        )

    known, new = parts
    states = states_of(known, "train", 0), states_of(new, "validation", len(known.texts))
    fold = fold_of(int(known.question.max()) + 1, FOLDS)[known.question]
    fitted = fit_state_readout(states[0].double().numpy(), known.right, known.question, fold)
    keys = {prompt_key(text): place for text, place in zip(known.texts, fold, strict=True)}
    readout = StateReadout(torch.from_numpy(fitted).float(), torch.tensor([*keys.items()]))
    judged, logprobs = readout(states[1], new.texts), np.nan_to_num(new.logprobs)
    score = calibrate(judged.double().numpy(), logprobs, new.right, new.question)
    save_adapter(None, out, base_digest=local.digest, score=score, readout=readout)
    shutil.rmtree(out / "training")
    found = probability(score, judged, torch.from_numpy(new.logprobs).float()).numpy()
    return _measured(found, new)


def measure_reviser(
    base: str | Path | ModelPlace, reviser: Path, traces: TraceSet, attempts: int = 200
) -> dict[str, float]:
    """What the reviser of a model does to some of its attempts, of the validation split.

    Returns:
        Shares of wrong attempts that it `fixes` and of right ones that it `breaks`, and how often a
        `fresh` attempt at the questions of the wrong ones is right; NaN of nothing.
    """
    local = _asked_as_recorded(load_adapters(_loaded(base), {REVISER: reviser}), traces)
    recorded = read_recorded(traces, ["validation"], [local.name])
    of = {question.question_id: question for question in recorded.questions}
    answered = [a for a in recorded.attempts if a.answer is not None and a.text is not None]
    parents = list({a.question_id: a for a in reversed(answered)}.values())[:attempts]
    longest = traces.models([local.name])[0].max_new_tokens or 192
    again = (
        Request(question=of[a.question_id], action=ActionKind.REVISE, parent=a) for a in parents
    )
    made = run_now(LocalBackend(local, max_new_tokens=longest).attempts([*again]))
    grade = partial(map, lambda a: KindGrader().is_right(of[a.question_id], a.answer))
    before, after = (np.array([*grade(each)], bool) for each in (parents, made))
    places = {name: q for q, name in enumerate(recorded.table.question_ids)}
    fresh = recorded.table.success_rates[[places[a.question_id] for a in parents], 0]
    return {
        "fixes": float(after[~before].mean()) if (~before).any() else nan,
        "breaks": float((~after)[before].mean()) if before.any() else nan,
        "fresh": float(fresh[~before].mean()) if (~before).any() else nan,
    }
