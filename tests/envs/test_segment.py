"""`allot/Segment-v0`: legality, reward, replay against live, vector against scalar."""

from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from sb3_contrib import MaskablePPO
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import envs
from controller.backends.local.segments import SegmentWriter
from controller.errors import IllegalActionError, TraceFormatError
from controller.policy.difficulty import Difficulty
from controller.policy.readouts import Network
from controller.segments.episodes import ESCALATE, REVISE, SAMPLE, SEGMENT_FEATURES, STOP, TO_END
from envs.compute import ComputeEnv
from envs.questions.grader import KindGrader
from envs.reward import budget_range, utility
from envs.segments import SegmentTraces, build_trees, read_trees
from envs.traces.derive import derive_segment_config
from envs.vector import ComputeVectorEnv
from training.compare.simulate import outlook

N = 24


@pytest.fixture(scope="module")
def recorded(trees):
    return read_trees(trees, ["train"])


@pytest.fixture(scope="module")
def process(trees, recorded):
    return derive_segment_config(recorded.table, trees)


@pytest.fixture(scope="module")
def readout(recorded):
    """Any read-out of prompts: what matters is that both sides use it alike."""
    width = recorded.table.features("prompt").shape[1]
    rng = np.random.default_rng(0)
    layer = Network(
        mean=np.zeros(width, np.float32),
        scale=np.ones(width, np.float32),
        weights=(rng.normal(size=(width, 2)).astype(np.float32),),
        biases=(np.zeros(2, np.float32),),
    )
    return Difficulty.alone(layer, "prompt")


@pytest.fixture
def build(recorded, process):
    def make(trees=recorded, config=process, backend=None, grader=recorded.grader, **options):
        attempts = trees.table.num_attempts
        backend = backend or trees.backend
        return ComputeEnv(trees.questions, backend, config, grader, attempts=attempts, **options)

    return make


def careful(step):
    return utility(step) - 0.7 * step.wrong


def play(env, rng, seed=None):
    """One episode of random legal actions: what was seen, done and gained."""
    observation, info = env.reset(seed=seed)
    seen, over = [(None, observation, 0.0, info["action_mask"])], False
    while not over:
        # STOP seldom, so that episodes are long.
        weights = rng.random(5) * info["action_mask"] * np.array([0.3, 1, 1, 0.6, 0.6])
        action = int(weights.argmax())
        observation, gain, over, _, info = env.step(action)
        seen.append((action, observation, gain, info["action_mask"]))
    return seen, info


def test_passes_the_checkers_of_gymnasium_and_sb3(build):
    check_env(build(illegal="stop"), skip_render_check=True)
    sb3_check_env(build(illegal="stop"), warn=False)
    MaskablePPO("MlpPolicy", build(), n_steps=64, batch_size=64, device="cpu").learn(128)


@pytest.mark.parametrize("probes", [False, True])
def test_replay_agrees_with_live(build, process, trees, small_and_large, probes, readout):
    """A live backend with the seed of the recording brings the same episodes.

    Of the test split: values of train questions come from read-outs fitted without them.
    """
    live = SegmentWriter(small_and_large, segmentation=trees.segmentation, value=trees.value)
    config = replace(process, probes=probes)
    options = {"config": config, "difficulty": readout, "grader": KindGrader()}
    options["trees"] = read_trees(trees, ["test"])
    sides = build(**options), build(backend=live, **options)
    kinds = set()
    for seed in range(N):
        (replayed, ended), (lived, really) = (
            play(env, np.random.default_rng(seed), seed) for env in sides
        )
        assert [step[0] for step in replayed] == [step[0] for step in lived]
        kinds |= {step[0] for step in replayed}
        for (_, seen, gain, mask), (_, seen_live, gain_live, mask_live) in zip(
            replayed, lived, strict=True
        ):
            assert np.allclose(seen, seen_live, rtol=1e-3, atol=0.02)  # three digits
            assert gain == pytest.approx(gain_live, abs=1e-9)
            assert (mask == mask_live).all()
        assert (ended["answer"], ended["right"], ended["cost"]) == (
            really["answer"],
            really["right"],
            really["cost"],
        )
    assert kinds >= {SAMPLE, REVISE, ESCALATE, TO_END}


@pytest.mark.parametrize("probes", [False, True])
def test_the_vector_environment_is_the_scalar_one(build, process, recorded, probes, readout):
    config = replace(process, probes=probes)
    known = outlook(readout, recorded.table)
    many = ComputeVectorEnv(recorded.table, config, N, difficulty=known, reward=careful)
    observations, info = many.reset(seed=7)
    single = [build(config=config, difficulty=readout, reward=careful) for _ in range(N)]
    firsts = [env.reset(seed=7 + i) for i, env in enumerate(single)]
    assert (observations == np.array([first for first, _ in firsts])).all()
    rng, masks = np.random.default_rng(0), info["action_mask"]
    for _ in range(12):
        actions = (rng.random(masks.shape) * masks).argmax(1)
        observations, gains, over, _, info = many.step(actions)
        masks = info["action_mask"]
        for i, env in enumerate(single):
            seen, gain, ended, _, told = env.step(actions[i])
            assert (gain, ended) == (gains[i], over[i])
            if ended:
                assert (seen == info["final_obs"][i]).all()
                assert told["right"] == info["final_info"]["right"][i]
                assert told["cost"] == info["final_info"]["cost"][i]
                seen, told = env.reset()
            assert (seen == observations[i]).all()
            assert (told["action_mask"] == masks[i]).all()


def test_stopping_before_the_first_segment_gives_up(build):
    env = build()
    env.reset(seed=0)
    _, gain, over, _, info = env.step(STOP)
    assert over
    assert info["answer"] is None
    assert gain == -info["price"] * info["cost"]


def test_rewards_add_up_to_accuracy_less_price_times_cost(build):
    env, rng = build(), np.random.default_rng(1)
    for seed in range(N):
        seen, info = play(env, rng, seed)
        total = sum(step[2] for step in seen)
        assert total == pytest.approx(info["right"] - info["price"] * info["cost"])


def test_a_redone_segment_is_paid_for_and_its_prefix_is_not_paid_again(build):
    env = build()
    env.reset(seed=3, options={"price": 1e-3})
    env.step(SAMPLE)
    episode = env.episode
    before, written = episode.cost, episode.prefix.segment.num_tokens
    assert before == episode.prefix.prompt_tokens[0] + written
    env.step(REVISE)
    assert episode.cost == before + episode.prefix.segment.num_tokens
    assert len(episode.prefix.segments) == 1


def test_the_large_model_takes_over_once_and_nothing_is_redone_after(build):
    env = build()
    for seed in range(N):
        env.reset(seed=seed)
        env.step(SAMPLE)
        episode = env.episode
        if episode is None or episode.prefix.done:
            continue
        before, prefix = episode.cost, episode.prefix
        weight = env.config.cost.weights[1]
        _, _, over, _, info = env.step(ESCALATE)
        segment = episode.prefix.segment
        read = prefix.prompt_tokens[1] + prefix.num_tokens
        handed = 0 if segment.done else segment.small_tokens
        assert episode.cost == pytest.approx(before + weight * (read + segment.num_tokens) + handed)
        if not over:
            assert info["action_mask"].tolist() == [1, 1, 0, 0, 0]
            with pytest.raises(IllegalActionError, match="other than STOP"):
                env.step(REVISE)


def test_no_budget_is_overspent(build, recorded, process):
    many = ComputeVectorEnv(recorded.table, process, 64, budgets=budget_range(process.cost_unit))
    rng = np.random.default_rng(0)
    _, info = many.reset(seed=0)
    ended = 0
    for _ in range(40):
        mask = info["action_mask"]
        *_, info = many.step((rng.random(mask.shape) * mask).argmax(1))
        if "final_info" in info:
            done, final = info["_final_info"], info["final_info"]
            # Reading the prompt is all that may exceed a budget that does not even cover it.
            begun = final["segments"] + final["escalations"] > 0
            assert (final["cost"] <= final["budget"] + 1e-9)[done & begun].all()
            ended += int(np.isfinite(final["budget"][done & begun]).sum())
    assert ended > 20


def test_references_never_reach_observations(trees, process):
    """The same trees with other verdicts look the same."""
    table = build_trees(trees, ["train"])
    blind = replace(table, answer_correct=~table.answer_correct)
    sides = [ComputeVectorEnv(t, process, N) for t in (table, blind)]
    rng = np.random.default_rng(2)
    (seen, info), (other, _) = (env.reset(seed=1) for env in sides)
    gains = []
    for _ in range(10):
        assert (seen == other).all()
        mask = info["action_mask"]
        actions = (rng.random(mask.shape) * mask).argmax(1)
        (seen, gain, _, _, info), (other, gain_other, *_) = (env.step(actions) for env in sides)
        gains.append((gain != gain_other).any())
    assert any(gains)


def test_registered_and_vectorised_by_name(trees):
    env = gymnasium.make(envs.SEGMENT_ID, traces=str(trees.path), render_mode="ansi")
    env.reset(seed=0)
    env.step(SAMPLE)
    assert "SAMPLE" in env.render()
    many = gymnasium.make_vec(envs.SEGMENT_ID, num_envs=8, traces=str(trees.path), split="test")
    observation, _ = many.reset(seed=0)
    assert observation.shape == (8, len(SEGMENT_FEATURES))


def test_state_is_restored_to_the_bit(recorded, process):
    env = ComputeVectorEnv(recorded.table, process, 16)
    env.reset(seed=0)
    env.step(np.full(16, SAMPLE))
    kept = {name: array.copy() for name, array in env.state().items()}

    def go_on():
        actions = np.where(env.action_masks()[:, REVISE], REVISE, STOP)
        return [x.copy() for x in env.step(actions)[:3]]

    first = go_on()
    env.restore(kept)
    for once, again in zip(first, go_on(), strict=True):
        assert (once == again).all()


def test_attempt_traces_are_not_segment_traces(traces):
    with pytest.raises(TraceFormatError, match="expected segments"):
        SegmentTraces.read(traces.path)
