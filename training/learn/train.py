"""From a trace set to a controller checkpoint."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from controller.card import model_card
from controller.checkpoint import (
    SETTINGS_FILE,
    AnyCheckpoint,
    Checkpoint,
    is_finished,
    load_any,
    save_checkpoint,
    seen_from,
)
from controller.granularity import Process
from controller.policy.calibration import Calibration
from controller.policy.difficulty import Difficulty
from controller.policy.floor import Floor, FlooredPolicy
from controller.policy.network import Policy
from controller.policy.training_range import Support
from controller.process.episodes import EpisodeConfig, Plan
from controller.process.lockstep import Bools, Floats
from controller.process.types import ModelSpec
from envs.granularity import AnyTable, AnyTraces
from envs.questions.files import only_kind
from envs.reward import LogUniform, budget_range, price_range
from envs.segments import SegmentTraces
from envs.traces.format import TraceSet
from envs.traces.summary import answer_warnings
from envs.traces.table import TraceTable
from envs.vector import ComputeVectorEnv
from training.compare.simulate import outcomes_of, outlook, play_checkpoint, utilities
from training.compare.yardsticks import best_rule_utilities, pick_plans
from training.granularity import learning_of
from training.learn.calibration import with_calibration, with_tie_breaks
from training.learn.config import LEARNERS, SEGMENT_DEFAULTS, TrainConfig
from training.learn.difficulty import (
    Readings,
    fit_difficulty,
    fit_plans,
    fit_readings,
    with_prompt_lengths,
)
from training.learn.floor import FLOOR_PRICES, RULE_QUESTIONS, PlanFollower, Rulebook
from training.learn.resume import CURVE, Curve, has_state, start_from
from training.learn.settings import flat
from training.ppo import PPO
from training.report.tracking import Tracker, controller_artifact, traces_artifact
from training.report.view import View

_CALIBRATION_PRICES = 31

_SUPPORT_STEPS = 64
"""Random steps per environment that tell which observations there are."""

PLAN_QUESTIONS, MOST_PLANS = 1000, 8
"""Questions to learn from at which plans are read from wordings, and how many plans, at most."""

CHECKS = 20
"""How often, at least, training looks at the validation split."""

CHECK_PRICES = 8
"""Prices at which it does."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Tables and settings that training needs, made from a trace set.

    Of whole attempts the validation split is halved. The first half is learnt from as well, or,
    if training has a patience, chooses when it ends and which weights it keeps. The other half
    tells what the controller is good for: nothing is chosen by it.

    Attributes:
        models: the ladder, the small one first.
        train: questions to learn from.
        validation: questions that training is watched on.
        calibration: questions that tell what the controller is good for.
        process: the decision process.
        prices: to train for.
        difficulty: read-out for other questions; None without wordings or with few questions.
        train_outlook: (Q, R or 2R) outlook of `train`, each question's by a read-out fitted
            without it.
        read: single read-outs, fitted on `train`.
        plans: rules whose worth a policy sees, as `EpisodeConfig.plans` names them.
    """

    models: tuple[ModelSpec, ...]
    train: AnyTable
    validation: AnyTable
    calibration: AnyTable
    process: Process
    prices: LogUniform
    difficulty: Difficulty | None
    train_outlook: Floats | None
    read: Readings
    plans: Sequence[Any] = ()

    def of(self, rows: Bools) -> Prepared:
        """The same with some of the questions to learn from, (Q,)."""
        known, places = self.train_outlook, np.flatnonzero(rows)
        return replace(
            self,
            train=self.train.take(places),
            train_outlook=None if known is None else known[places],
            read=self.read.take(places),
        )

    @cached_property
    def tuning(self) -> Prepared:
        """Questions that rules are chosen by: all to learn from, or enough of these."""
        num_questions = len(self.train)
        every = num_questions // RULE_QUESTIONS
        if every < 2:
            return self
        return self.of(np.arange(num_questions) % every == 0)

    @cached_property
    def rulebook(self) -> tuple[Rulebook, Floats] | None:
        """Rules to start from and to be no worse than, and their utilities on `tuning`."""
        tuning = self.tuning
        if not isinstance(self.train, TraceTable):
            return None
        known = tuning.train_outlook
        rulebook = Rulebook.screened(self.process, self.rule_prices, tuning.train, known)
        return rulebook, rulebook.utilities(tuning.train, known)

    @property
    def rule_prices(self) -> Floats:
        """Prices at which rules are compared."""
        return self.prices.grid(FLOOR_PRICES if self.prices.low < self.prices.high else 1)

    def with_plans(self, rules: Sequence[Any]) -> Prepared:
        """The same, where a policy also sees what the wording tells of following each rule."""
        process = self.process
        if not rules or self.difficulty is None or self.train_outlook is None:
            return self
        assert isinstance(process, EpisodeConfig)  # Inside attempts there are none.
        book = Rulebook(process=process, prices=self.rule_prices, rules=rules)
        right, cost = outcomes_of(book.play(self.train))
        read, known = fit_plans(self.train, right, cost)
        plans = tuple(map(Plan, map(str, rules), cost.max(0).tolist()))
        return replace(
            self,
            process=replace(process, plans=plans),
            difficulty=replace(self.difficulty, plans=read),
            train_outlook=np.hstack([self.train_outlook, known]),
            plans=rules,
        )

    def picked_plans(self) -> list[Any]:
        """Rules that a plan selector does well with, where there are questions enough to tell."""
        if len(self.train) < PLAN_QUESTIONS or not isinstance(self.train, TraceTable):
            return []
        sample = self.tuning.train
        words = sample.features("words")
        if words is None:
            return []
        book = Rulebook.varied(self.process, self.rule_prices, sample)
        return [
            book.rules[i] for i in pick_plans(words, book.play(sample), book.prices, MOST_PLANS)
        ]

    @cached_property
    def best_rule(self) -> float:
        """Mean utility, over the prices of a check, of the best rule in hindsight."""
        table, prices = self.validation, self.prices.grid(CHECK_PRICES)
        # Rules, unlike a policy, cannot do without.
        everywhere = self.difficulty and replace(self.difficulty, low=None, high=None)
        known = outlook(everywhere, table)
        return float(best_rule_utilities(table, self.process, prices, known).mean())


def suited(config: TrainConfig, traces: AnyTraces) -> TrainConfig:
    """The same with `total_steps`, if left open, as suits what there is of the train split."""
    if isinstance(traces, SegmentTraces):
        steps = config.ppo.total_steps or SEGMENT_DEFAULTS["total_steps"]
        return replace(config, ppo=replace(config.ppo, total_steps=steps))
    models = traces.models(config.ladder)
    attempts = [traces.model_rows[model.name].train_attempts for model in models]
    # Each question that is learnt from was tried by every model.
    questions = min(traces.questions["split"].to_pylist().count("train"), *attempts)
    return config.suited(sum(attempts), questions)


def prices_of(config: TrainConfig, process: Process) -> LogUniform:
    """Prices to train for."""
    if not config.prices:
        return price_range(process.cost_unit)
    return LogUniform(low=config.prices[0], high=config.prices[1])


def prepare(traces: AnyTraces, config: TrainConfig) -> Prepared:
    """Tables, decision process and difficulty read-out of a trace set.

    Raises:
        TraceFormatError: there are too few questions that each model of the ladder has tried.
    """
    learning, models = learning_of(traces), traces.models(config.ladder)
    if isinstance(traces, TraceSet):
        for message in answer_warnings(traces, [model.name for model in models]):
            warnings.warn(message, stacklevel=2)
    train, validation, calibration = learning.split(traces, config)
    outcomes = learning.outcomes(train)
    read = fit_readings(train, outcomes)
    difficulty, outlook = fit_difficulty(train, outcomes, read) or (None, None)
    process = learning.derive(train, traces, config, difficulty)
    if isinstance(process, EpisodeConfig) and process.names_verifier:
        train, process = with_calibration(train, process)
    if isinstance(process, EpisodeConfig):
        process = with_tie_breaks(train, process)
    prepared = Prepared(
        models=models,
        train=train,
        validation=validation,
        calibration=calibration,
        process=process,
        prices=prices_of(config, process),
        difficulty=difficulty,
        train_outlook=outlook,
        read=read,
    )
    if config.start:
        # Who starts from another controller sees what that one sees.
        named = getattr(load_any(config.start).config, "plan_names", ())
        rules = dict.fromkeys(rule for rule in learning.rules(process) if str(rule) in named)
        return prepared.with_plans([*rules])
    # Weights that serve any menu see nothing that is said of some of its rules.
    shared = config.ppo.network == "shared"
    return prepared if shared else prepared.with_plans(prepared.picked_plans())


class ControllerTraining:
    """One training; the last weights are kept, or with a patience the best ones.

    `out` holds the checkpoint, and under `training/` what resuming needs and the metrics of every
    update. What `prepare` makes can be shared among seeds.
    """

    def __init__(
        self, traces: AnyTraces, config: TrainConfig, out: Path, prepared: Prepared | None = None
    ) -> None:
        self.prepared = prepared or prepare(traces, config)
        config = suited(config, traces)
        source = load_any(config.start) if config.start else None
        if source is not None and config.ppo.network == "auto":
            config = replace(config, ppo=replace(config.ppo, network=source.policy.config.network))
        self.traces, self.config, self.out = traces, config, out
        env = self._env_of(self.prepared)
        self.ppo: PPO = LEARNERS[config.learner](env, config.ppo)
        self._env = env
        self.started = ""
        """What was taken over from another controller, in a line."""
        if source is not None:
            self.started = start_from(self.ppo.policy, self.prepared.process, source)
        self.utility, self._waited = -np.inf, 0
        """Of the kept weights on `prepared.validation`."""
        self._kept: dict[str, torch.Tensor] = {}
        if has_state(self._state):
            notes, self._kept = self.ppo.resume(self._state)
            self.utility, self._waited = notes["utility"], notes["waited"]

    def _env_of(self, prepared: Prepared) -> ComputeVectorEnv:
        """The environment of what a policy learns from."""
        return ComputeVectorEnv(
            prepared.train,
            prepared.process,
            self.config.ppo.num_envs,
            prices=prepared.prices,
            difficulty=prepared.train_outlook,
            round_prices=learning_of(self.traces).round_prices,
            budgets=budget_range(prepared.process.cost_unit),
            hide_signals=self.config.hide_signals,
        )

    def settings(self) -> dict[str, Any]:
        """Settings of the run, for people and W&B."""
        return {**flat(self.config), "process": asdict(self.prepared.process)}

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        return self._is_done and is_finished(self.out)

    @property
    def _is_done(self) -> bool:
        patience = self.config.patience
        impatient = patience > 0 and self._waited >= patience
        return impatient or self.ppo.update >= self.config.ppo.num_updates

    @property
    def _state(self) -> Path:
        return self.out / "training"

    def run(
        self,
        tracker: Tracker | None = None,
        view: View | None = None,
        stop: Callable[[], bool] | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> AnyCheckpoint:
        """Train to the end and save the checkpoint, unless that is there.

        After each update `view` is called, and `stop` is asked whether to save and stop; `say`
        hears what is done after the training. W&B is told where there is a `tracker`.

        Raises:
            KeyboardInterrupt: it was stopped; the next run goes on from there to the bit.
        """
        if self.finished:
            return load_any(self.out)
        tracker = tracker or Tracker(self.out, "train", {}, mode="disabled")
        every = max(1, self.config.ppo.num_updates // CHECKS)
        curve = Curve(self._state / CURVE, self.ppo.steps)

        def report(steps: int, metrics: dict[str, float]) -> None:
            if self.ppo.update % every == 0 or self.ppo.update == self.config.ppo.num_updates:
                metrics |= self._check()
                self._save_state()
            curve.add(steps, metrics)
            # W&B's steps never go back: updates that a kill took away are not told of twice.
            if steps > curve.reached:
                tracker.log({"global_step": steps, **metrics})
            if view is not None:
                view(steps, metrics)

        if self.started:
            say(self.started)
        tracker.artifact(traces_artifact(self.traces), used=True)
        if not self._is_done:
            self._save_early(say)
            self.ppo.train(
                report, lambda: self._is_done or (stop is not None and stop()), self._prior()
            )
        if not self._is_done:
            self._save_state()
            raise KeyboardInterrupt
        self.ppo.policy.load_state_dict(self._kept)
        say("comparing the policy with hand-made rules on questions that it has not learnt from")
        support = observed_support(self._env, self.config.ppo.seed)
        checkpoint = replace(self._checkpoint(), support=support, floor=self._floor())
        checkpoint = self._calibrated(checkpoint)
        save_checkpoint(checkpoint, self.out, str(model_card(checkpoint, None)))
        tracker.summary({"validation/kept_utility": self.utility})
        tracker.artifact(controller_artifact(checkpoint, self.out, self.traces))
        return checkpoint

    def _save_early(self, say: Callable[[str], None]) -> None:
        """A controller that can be used while it is trained: the best rules, at every price."""
        if self.prepared.rulebook is None or (self.out / SETTINGS_FILE).exists():
            return
        rulebook, tuned = self.prepared.rulebook
        training = {"finished": None, "config": flat(self.config)}
        checkpoint = replace(self._checkpoint(), floor=rulebook.best(tuned), training=training)
        save_checkpoint(checkpoint, self.out, str(model_card(checkpoint, None)))
        say(f"{self.out}: can be used from now on; rules decide until the training has ended")

    def _prior(self) -> Policy | None:
        """The best rules by `Prepared.tuning`, or the plan of the highest worth."""
        if self.prepared.rulebook is None:
            return None
        rulebook, tuned = self.prepared.rulebook
        best, plans = FlooredPolicy(self.ppo.policy, rulebook.best(tuned)), self.prepared.plans
        return PlanFollower(plans, otherwise=best) if plans else best

    def _floor(self) -> Floor | None:
        """Rules for prices at which the policy is behind them on questions not learnt from."""
        if self.prepared.rulebook is None:
            return None
        prepared, (rulebook, tuned) = self.prepared, self.prepared.rulebook
        fresh, known = prepared.calibration, outlook(prepared.difficulty, prepared.calibration)
        judged = utilities(self.ppo.policy, fresh, prepared.process, rulebook.prices, known)
        return rulebook.floor(tuned, rulebook.utilities(fresh, known), judged)

    def _check(self) -> dict[str, float]:
        """Utility on `prepared.validation`; keeps the weights, unless better ones are wanted."""
        prepared, table = self.prepared, self.prepared.validation
        prices, known = prepared.prices.grid(CHECK_PRICES), outlook(prepared.difficulty, table)
        found = utilities(self.ppo.policy, table, prepared.process, prices, known)  # (P, Q)
        utility = float(np.mean([float(row.mean()) for row in found]))
        self._waited += 1
        if not self.config.patience or utility > self.utility:
            self._waited = 0
            self.utility = utility
            self._kept = {k: v.clone() for k, v in self.ppo.policy.state_dict().items()}
        return {
            "validation/utility": utility,
            "validation/best_rule": prepared.best_rule,
            "validation/lead": utility - prepared.best_rule,
        }

    def _save_state(self) -> None:
        notes = {"utility": self.utility, "waited": self._waited}
        self.ppo.save(self._state, notes, self._kept)

    def _calibrated(self, checkpoint: AnyCheckpoint) -> AnyCheckpoint:
        """With mean cost on the questions learnt from and on fresh ones, and counts on these.

        A specialist for one price has nothing to choose from.
        """
        prepared = self.prepared
        if prepared.prices.low == prepared.prices.high:
            return checkpoint
        prices = prepared.prices.grid(_CALIBRATION_PRICES)
        tables = (prepared.train, prepared.calibration)
        cost, right = [], []
        for price in prices:
            played = [play_checkpoint(checkpoint, table, price, repeats=1) for table in tables]
            cost.append(float(np.concatenate([p.cost for p in played]).mean()))
            right.append(int(played[-1].right.sum()))
        calibration = Calibration(
            prices=tuple(prices.tolist()),
            cost=tuple(cost),
            right=tuple(right),
            questions=prepared.calibration.num_questions,
        )
        return replace(checkpoint, calibration=calibration)

    def _checkpoint(self) -> AnyCheckpoint:
        prepared = self.prepared
        return Checkpoint(
            policy=self.ppo.policy,
            config=prepared.process,
            models=with_prompt_lengths(self.traces, prepared.models)
            if isinstance(self.traces, TraceSet)
            else prepared.models,
            price_range=(prepared.prices.low, prepared.prices.high),
            difficulty=prepared.difficulty,
            value=learning_of(self.traces).value(self.traces),
            model_paths=_model_paths(self.traces, prepared.models, self.out),
            adapter_paths=_adapter_paths(self.traces, prepared.models[0], self.out),
            segment_controller=_segment_controller(self.traces, self.out),
            answers=only_kind(self.traces.manifest),
            training={
                "finished": datetime.now(UTC).isoformat(timespec="seconds"),
                "traces": self.traces.manifest.get("digest") or self.traces.path.name,
                "questions": prepared.train.num_questions,
                "validation_utility": self.utility,
                "config": flat(self.config),
                "versions": {"torch": torch.__version__, "numpy": np.__version__},
            },
        )


def observed_support(env: ComputeVectorEnv, seed: int) -> Support:
    """Ranges of all features under random legal actions."""
    rng = np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    seen = [observation]
    for _ in range(_SUPPORT_STEPS):
        mask = env.action_masks()
        observation, *_ = env.step((rng.random(mask.shape) * mask).argmax(1))
        seen.append(observation)
    return Support.of(np.stack(seen))


def _model_paths(traces: AnyTraces, models: Sequence[ModelSpec], out: Path) -> tuple[str, ...]:
    """Where the ladder's models lie, seen from `out`; empty if the traces do not tell."""
    entries: Mapping[str, Any] = traces.manifest.get("models", {})
    paths = [entries.get(model.name, {}).get("path") for model in models]
    return () if None in paths else tuple(seen_from(out, traces.path, path) for path in paths)


def _adapter_paths(traces: AnyTraces, small: ModelSpec, out: Path) -> dict[str, str]:
    entries = traces.manifest.get("models", {}).get(small.name, {}).get("adapters", {})
    return {
        name: seen_from(out, traces.path, entry["path"])
        for name, entry in entries.items()
        if entry.get("path")
    }


def _segment_controller(traces: AnyTraces, out: Path) -> tuple[str, float] | None:
    """Controller under which the samples were written, and its price; None for plain ones."""
    entry = traces.manifest.get("decoding", {}).get("segments")
    return entry and (seen_from(out, traces.path, entry["controller"]), float(entry["price"]))
