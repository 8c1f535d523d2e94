"""Training and evaluation inside attempts."""

import json
from dataclasses import replace

import numpy as np
import pytest

from controller.backends.local.segments import SegmentWriter
from controller.checkpoint import load_segment_checkpoint, save_checkpoint
from controller.errors import CheckpointError, ConfigError
from controller.loop import Controller
from controller.process.actions import ActionKind
from controller.segments.episodes import SAMPLE
from controller.segments.rules import SegmentRule, always, fixed_length, redo_unlikely
from envs.segments import read_trees
from training.compare.evaluate import compare, read_others
from training.compare.simulate import play, play_checkpoint
from training.compare.summary import summarise
from training.compare.yardsticks import play_greedy
from training.learn.config import PPOConfig, TrainConfig
from training.learn.resume import CURVE, read_curve
from training.learn.settings import resolve
from training.learn.train import ControllerTraining, prepare

CONFIG = TrainConfig(ppo=PPOConfig(total_steps=64 * 16 * 6, num_envs=64, num_steps=16))


def trained(trees, prepared, out, stop=None):
    return ControllerTraining(trees, CONFIG, out, prepared).run(stop=stop)


@pytest.fixture(scope="module")
def prepared(trees):
    return prepare(trees, CONFIG)


@pytest.fixture(scope="module")
def run(trees, prepared, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "segments"
    return trained(trees, prepared, out), out


def test_trees_hold_whatever_may_be_asked_for(prepared):
    """Following every legal action from every prompt never meets a node without successors."""
    table, process = prepared.train, prepared.process

    class Everywhere:
        def __init__(self, seed):
            self.rng = np.random.default_rng(seed)

        def act(self, episodes, mask):
            return (self.rng.random(mask.shape) * mask * [0.05, 1, 1, 1, 0.2]).argmax(1)

    for seed in range(40):
        play(Everywhere(seed), table, process, price=1e-3)


def test_rules_do_what_they_say(prepared):
    table, process = prepared.train, prepared.process

    def played(rule):
        return play(rule, table, process, price=1.0)

    whole, short = played(SegmentRule(always, (SAMPLE,))), played(SegmentRule(fixed_length, (1,)))
    assert whole.actions[:, 1:].sum() == 0
    assert (short.actions[:, 0] == 1).all()
    assert short.cost.mean() < whole.cost.mean()
    redone = played(SegmentRule(redo_unlikely, (-0.1, 3)))
    assert redone.actions[:, 1].sum() > 0
    assert redone.cost.mean() > whole.cost.mean()


def test_training_is_reproduced_by_its_seed_and_resumed_to_the_bit(trees, prepared, run, tmp_path):
    checkpoint, _ = run
    again = trained(trees, prepared, tmp_path / "again")
    updates = iter([False, False, True])
    with pytest.raises(KeyboardInterrupt):
        trained(trees, prepared, tmp_path / "half", stop=lambda: next(updates))
    resumed = trained(trees, prepared, tmp_path / "half")
    curves = [read_curve(tmp_path / name / "training" / CURVE) for name in ("again", "half")]
    assert [line["global_step"] for line in curves[1]] == [64 * 16 * (i + 1) for i in range(6)]
    assert [c["episodic/utility"] for c in curves[0]] == [c["episodic/utility"] for c in curves[1]]
    for other in (again, resumed):
        for name, weight in checkpoint.policy.state_dict().items():
            assert (other.policy.state_dict()[name] == weight).all()


def test_a_checkpoint_comes_back_as_it_was(prepared, run):
    checkpoint, out = run
    loaded = load_segment_checkpoint(out)
    assert loaded.config == checkpoint.config
    assert loaded.models == checkpoint.models
    sides = (play_checkpoint(c, prepared.validation, 1e-3) for c in (checkpoint, loaded))
    once, again = sides
    assert (once.cost == again.cost).all()
    for name, array in checkpoint.value.arrays().items():
        assert (loaded.value.arrays()[name] == array).all()


def test_hostile_checkpoints_are_refused(run, tmp_path):
    checkpoint, _ = run
    save_checkpoint(checkpoint, tmp_path)
    settings = json.loads((tmp_path / "controller.json").read_text())
    for name, value in (("version", 9), ("observation", []), ("process", {}), ("policy", {"x": 1})):
        (tmp_path / "controller.json").write_text(json.dumps({**settings, name: value}))
        with pytest.raises(CheckpointError):
            load_segment_checkpoint(tmp_path)


def test_a_loaded_controller_answers_live_as_its_replay_does(trees, run, small_and_large):
    checkpoint, _ = run
    writer = SegmentWriter(
        small_and_large, segmentation=checkpoint.config.segmentation, value=checkpoint.value
    )
    controller = Controller.load(checkpoint, writer)
    recorded = read_trees(trees, ["test"])
    replayed = Controller.load(checkpoint, recorded.backend)
    for question in recorded.questions:
        live, replay = (c.answer(question, price=1e-3) for c in (controller, replayed))
        assert (live.answer, live.cost) == (replay.answer, replay.cost)
        assert live.decisions[-1].action.kind is ActionKind.STOP or live.decisions[-1].segment
        processed = live.usage["small"].processed_tokens + live.usage["large"].processed_tokens
        assert processed > 0


def test_comparisons_are_paired_and_rules_tuned_elsewhere(prepared, run, trees):
    checkpoint, _ = run
    test = read_trees(trees, ["test"])
    greedy = play_greedy(trees, test.questions, checkpoint.config.cost)
    elsewhere = replace(trees, manifest=trees.manifest | {"models": {"far": {}}})
    with pytest.raises(ConfigError, match=r"greedy: expected traces of local models.*\['far'\]"):
        play_greedy(elsewhere, test.questions, checkpoint.config.cost)
    comparison = compare([checkpoint], prepared.train, test.table, fixed=greedy, num_prices=3)
    results = summarise(comparison, test.questions)
    assert results.num_questions == results.num_distinct == len(test.questions)
    for name, leads in results.lead.items():
        for row, other, lead in zip(results.controller, results.policies[name], leads, strict=True):
            assert lead.lead == pytest.approx(row.utility - other.utility)


@pytest.mark.parametrize(
    "wrong", [{"unit": "dollars"}, {"max_samples": 4}, {"own_actions": ("a",)}]
)
def test_settings_of_whole_attempts_are_refused(trees, wrong):
    with pytest.raises(
        ConfigError, match=f"{next(iter(wrong))}: expected .* inside attempts, found"
    ):
        prepare(trees, replace(CONFIG, **wrong))


def test_settings_that_nobody_gives_suit_what_the_traces_are_of(trees, traces, tmp_path):
    inside = resolve({"out": "x", "traces": str(trees.path)})
    whole = resolve({"out": "x", "traces": str(traces.path)})
    given = resolve({"out": "x", "traces": str(trees.path), "hidden_sizes": "32"})
    sizes = [settings.train.ppo.hidden_sizes for settings in (inside, whole, given)]
    assert sizes == [(64, 64), (128, 128), (32,)]


def test_controllers_of_both_granularities_are_compared_on_the_same_questions(run, trees):
    checkpoint, out = run
    (other,) = read_others([f"again={out}@{trees.path}"]).values()
    recorded = read_trees(trees, ["test"])
    test = recorded.table
    comparison = compare([checkpoint], test, test, others={"again": other}, num_prices=2)
    for ours, theirs in zip(
        comparison.played["controller"], comparison.played["again"], strict=True
    ):
        assert (ours.cost == theirs.cost).all()
    rows = summarise(comparison, recorded.questions).equal_accuracy
    ratios = np.array([row.compute["controller"].ratio for row in rows])
    assert ((ratios == 1) | np.isnan(ratios)).all()
    with pytest.raises(ConfigError, match="NAME=CONTROLLER"):
        read_others(["again"])


def test_draws_beyond_what_was_recorded_are_refused(prepared):
    more = replace(prepared.process, draws=(9,))
    with pytest.raises(ConfigError, match="recorded"):
        play(SegmentRule(always, (SAMPLE,)), prepared.train, more, price=1.0)
