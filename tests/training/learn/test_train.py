"""The training curve on disk."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from controller.checkpoint import SETTINGS_FILE, is_finished, load_checkpoint
from controller.errors import CheckpointError, TraceFormatError
from envs.traces.format import TraceSet
from training.compare.simulate import outlook, play_checkpoint, play_rules
from training.learn import train as learning
from training.learn.config import LEAST_STEPS, STEPS_PER_ATTEMPT, STEPS_PER_QUESTION
from training.learn.resume import CURVE, Curve, read_curve
from training.learn.train import ControllerTraining, TrainConfig, prepare, suited
from training.ppo import PPOConfig
from training.report.tracking import Tracker

SETTINGS = TrainConfig(ppo=PPOConfig(total_steps=6 * 256 * 16, num_envs=256))


@pytest.fixture(scope="module")
def few(few):
    """The set itself, not its directory."""
    return TraceSet.read(few)


@pytest.fixture(scope="module")
def begin(few):
    """Begins a training; what it starts from depends on whether it has a patience alone."""
    prepared = [prepare(few, replace(SETTINGS, patience=patience)) for patience in (0, 2)]
    return lambda config, out: ControllerTraining(few, config, out, prepared[config.patience > 0])


def train(begin, out, stop_after=None, config=SETTINGS):
    training = begin(config, out)

    def interrupt(steps, metrics):
        if stop_after is not None and training.ppo.update == stop_after:
            raise KeyboardInterrupt

    training.run(view=interrupt)
    return training


def without_speed(lines):
    return [{k: v for k, v in line.items() if k != "charts/SPS"} for line in lines]


def test_an_interrupted_training_leaves_the_curve_of_an_uninterrupted_one(begin, tmp_path):
    train(begin, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(begin, tmp_path / "halves", stop_after=3)
    assert is_finished(tmp_path / "whole")
    assert not is_finished(tmp_path / "halves")
    halves, whole = (tmp_path / name / "training" / CURVE for name in ("halves", "whole"))
    with halves.open("a") as file:  # as if the machine had failed later, mid-line
        file.write('{"global_step": 16384, "episodic/utility": 9}\n{"global_st')
    train(begin, tmp_path / "halves")
    assert [line["global_step"] for line in read_curve(halves)] == [
        4096 * update for update in range(1, 7)
    ]
    assert without_speed(read_curve(halves)) == without_speed(read_curve(whole))
    assert "validation/utility" in read_curve(halves)[-1]


def test_until_a_training_has_ended_the_best_rules_decide(few, begin, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(begin, tmp_path, stop_after=1)
    assert not begin(SETTINGS, tmp_path).finished
    with pytest.warns(UserWarning, match="its training has not ended"):
        early = load_checkpoint(tmp_path)
    assert None not in early.floor.rules
    prepared = begin(SETTINGS, tmp_path / "other").prepared
    table, known = prepared.validation, outlook(prepared.difficulty, prepared.validation)
    for place in (0, 6, 11):
        price, rule = early.floor.prices[place], early.floor.rules[place]
        (ruled,) = play_rules([rule], table, early.config, difficulty=known, repeats=1)
        played = play_checkpoint(early, table, price, repeats=1)
        np.testing.assert_array_equal(played.right, ruled.right)
    assert train(begin, tmp_path).finished
    assert load_checkpoint(tmp_path).floor.rules != early.floor.rules


def test_patience_ends_a_training_that_does_not_get_better(begin, tmp_path):
    """Here none does: so small a rate changes nothing. Called again, nothing is left to do."""
    still = replace(SETTINGS.ppo, learning_rate=1e-12)
    patient = replace(SETTINGS, patience=2, ppo=still)
    assert train(begin, tmp_path, config=patient).ppo.update == 3
    assert train(begin, tmp_path, config=patient).finished
    assert len(read_curve(tmp_path / "training" / CURVE)) == 3


def test_half_of_the_validation_split_is_learnt_from_or_chooses(begin, tmp_path):
    configs = (replace(SETTINGS, patience=patience) for patience in (0, 2))
    eager, patient = (begin(config, tmp_path).prepared for config in configs)
    names = ("train", "validation", "calibration")
    learnt, watched, fresh = (set(getattr(eager, name).question_ids) for name in names)
    less, choosing, same = (set(getattr(patient, name).question_ids) for name in names)
    assert watched == fresh == same
    assert learnt == less | choosing
    assert choosing
    assert not less & choosing | learnt & fresh


@pytest.mark.parametrize(
    ("left", "message"),
    [("train", "questions of .'validation'."), ("validation", "questions of .'train'.")],
)
def test_there_must_be_questions_of_both_splits(few, left, message):
    of_split = pa.array(split == left for split in few.questions["split"].to_pylist())
    with pytest.raises(TraceFormatError, match=message):
        prepare(replace(few, questions=few.questions.filter(of_split)), SETTINGS)


@pytest.mark.parametrize(
    ("attempts", "steps"),
    [
        (6, LEAST_STEPS),
        (7_000, STEPS_PER_ATTEMPT * 14_000),
        (700, STEPS_PER_QUESTION * 700),
        (600, STEPS_PER_QUESTION * 600),  # questions that both have tried are no more
    ],
)
def test_open_steps_follow_the_numbers_of_attempts_and_questions(few, attempts, steps):
    traces = replace(few, questions=pa.table({"split": ["train"] * 700}))
    tried = {name: replace(rows, train_attempts=attempts) for name, rows in few.model_rows.items()}
    vars(traces)["model_rows"] = tried
    assert suited(TrainConfig(), traces).ppo.total_steps == steps


def test_a_fresh_training_begins_a_fresh_curve(tmp_path):
    Curve(tmp_path / CURVE, 0).add(64, {"a": 1.0, "undefined": float("nan")})
    assert read_curve(tmp_path / CURVE) == [{"global_step": 64, "a": 1.0}]
    assert Curve(tmp_path / CURVE, 0).reached == 0
    assert read_curve(tmp_path / CURVE) == []


def test_updates_that_a_kill_took_away_are_told_of_once(begin, tmp_path):
    config = replace(SETTINGS, ppo=replace(SETTINGS.ppo, total_steps=4 * 256 * 16))
    told: list[int] = []

    class Told(Tracker):
        def log(self, metrics):
            told.append(metrics["global_step"])

    def go_on(stop=None):
        with Told(tmp_path, "train", {}, mode="disabled") as tracker:
            begin(config, tmp_path).run(tracker, stop=stop)

    answers = iter([False, True])
    with pytest.raises(KeyboardInterrupt):
        go_on(lambda: next(answers))
    with (tmp_path / "training" / CURVE).open("a") as curve:  # one more update, and the kill
        curve.write('{"global_step": 12288}\n')
    go_on()
    assert told == [4096, 8192, 16384]


@pytest.fixture(scope="module")
def planned(few, tmp_path_factory):
    """A trained controller that sees plans, as from many questions, and what it was made from."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning, "PLAN_QUESTIONS", 50)
        prepared = prepare(few, SETTINGS)
    out = tmp_path_factory.mktemp("planned")
    return ControllerTraining(few, SETTINGS, out, prepared).run(), prepared, out


def test_many_questions_tell_a_policy_what_plans_are_worth(planned, few):
    checkpoint, prepared, out = planned
    process = prepared.process
    assert 1 <= len(process.plans) <= learning.MOST_PLANS
    assert prepare(few, SETTINGS).process.plans == ()
    width = 2 * process.num_rungs + 2 * len(process.plans)
    assert prepared.train_outlook.shape == (len(prepared.train), width)
    assert f"{process.plan_names[0]}: worth" in checkpoint.granularity.features
    loaded = load_checkpoint(out)
    assert loaded.config == checkpoint.config
    features = prepared.validation.features
    np.testing.assert_array_equal(
        loaded.difficulty.outlook(features), checkpoint.difficulty.outlook(features)
    )


def test_who_starts_from_a_controller_sees_its_plans(planned, few):
    _, prepared, out = planned
    started = prepare(few, replace(SETTINGS, start=str(out)))
    assert set(started.process.plan_names) == set(prepared.process.plan_names)
    shared = replace(SETTINGS.ppo, network="shared")
    assert prepare(few, replace(SETTINGS, ppo=shared)).process.plans == ()


def test_plans_without_their_read_outs_are_refused(planned, tmp_path):
    shutil.copytree(planned[2], tmp_path / "copy")
    settings = tmp_path / "copy" / SETTINGS_FILE
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "plan_reads": None}))
    with pytest.raises(CheckpointError, match="plan_reads: expected those of plans"):
        load_checkpoint(tmp_path / "copy")
