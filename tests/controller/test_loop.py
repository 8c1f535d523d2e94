"""The decision loop, live on the bundled models."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from controller.backends.base import run_now
from controller.backends.local.adapters import load_adapters
from controller.backends.local.backend import TransformersBackend, load_model
from controller.checkpoint import load_checkpoint
from controller.errors import ConfigError
from controller.loop import Controller, begin_episode
from controller.process.actions import Action, ActionKind, ActionSet
from controller.process.terms import Terms
from envs.compute import ComputeEnv
from envs.questions.grader import KindGrader
from tests.conftest import CHECKPOINTS


@pytest.fixture(scope="module")
def live():
    small, large = (load_model(CHECKPOINTS / name, i) for i, name in enumerate(("small", "large")))
    adapters = {name: CHECKPOINTS / name for name in ("reviser", "verifier")}
    return TransformersBackend([load_adapters(small, adapters), large])


@pytest.fixture(scope="module")
def controller(live):
    return Controller.load(CHECKPOINTS / "controller", backend=live)


def test_replay_and_live_make_the_same_attempts(validation, config, live):
    """Same seed, same attempts: what was recorded is what the models write now."""
    rng, same, total = np.random.default_rng(0), 0, 0
    for question in rng.choice(np.array(validation.questions, object), 12, replace=False):
        episodes = [
            run_now(begin_episode(question, backend, config, Terms(price=1e-4)))
            for backend in (live, validation.backend)
        ]
        for kind in (ActionKind.SAMPLE, ActionKind.SAMPLE, ActionKind.ESCALATE):
            made, recorded = (run_now(episode.take(Action(kind)))[0] for episode in episodes)
            same += (made.text, made.answer) == (recorded.text, recorded.answer)
            total += 1
        if same == total:
            np.testing.assert_allclose(*(e.observation() for e in episodes), atol=1e-3)
            assert episodes[0].cost == episodes[1].cost
    # Rounding differs with the batch: a draw that lands within it may choose another token.
    assert same >= total - 1


def test_live_ledger_adds_up(validation, config, live):
    config = replace(config, max_revisions=4)
    episode = run_now(begin_episode(validation.questions[3], live, config, Terms(price=1e-4)))
    for kind in (ActionKind.SAMPLE, ActionKind.SAMPLE, ActionKind.REVISE, ActionKind.ESCALATE):
        run_now(episode.take(Action(kind)))
    ledger = config.cost
    weights = (*ledger.weights[:1] * 2, ledger.reviser_weight, ledger.weights[1])
    tokens = [attempt.usage.processed_tokens for attempt in episode.attempts]
    assert episode.cost == pytest.approx(np.dot(weights, tokens))
    processed = sum(u.processed_tokens for u in episode.usage.values())
    assert processed == episode.state.tokens[0]


def test_compute_env_runs_live(validation, config, live):
    config = replace(config, max_revisions=4)
    env = ComputeEnv(validation.questions, live, config, KindGrader())
    _, info = env.reset(seed=0)
    env.step(1)
    env.step(2)
    *_, terminated, _, info = env.step(0)
    assert terminated
    assert info["right"] in (True, False)


def test_answers_live_and_tells_why(controller, validation):
    low, high = load_checkpoint(CHECKPOINTS / "controller").price_range
    outcome = controller.answer(validation.questions[0].text, price=(low * high) ** 0.5)
    last = outcome.decisions[-1]
    assert sum(last.probabilities.values()) == pytest.approx(1.0, abs=1e-5)
    assert outcome.cost > 0
    assert all(d.action.kind is not ActionKind.STOP for d in outcome.decisions[:-1])
    if outcome.answer is not None:
        assert outcome.attempt.answer == outcome.answer


def test_dearer_means_less_compute(controller, validation):
    low, high = load_checkpoint(CHECKPOINTS / "controller").price_range
    spent = [
        sum(controller.answer(q, price=price).cost for q in validation.questions[::60])
        for price in (low, high)
    ]
    assert spent[0] > spent[1]


def test_live_and_replay_agree_statistically(controller, validation, traces):
    """Over fresh questions, live accuracy and cost lie where replay says they should."""
    from training.compare.simulate import outlook, play

    checkpoint = load_checkpoint(CHECKPOINTS / "controller")
    low, high = checkpoint.price_range
    price = (low * high) ** 0.5
    played = play(
        checkpoint.policy,
        validation.table,
        checkpoint.config,
        price=price,
        difficulty=outlook(checkpoint.difficulty, validation.table),
    )
    places = np.random.default_rng(1).choice(len(validation.questions), 60, replace=False)
    outcomes = [controller.answer(validation.questions[i], price=price) for i in places]
    right = [
        KindGrader().is_right(validation.questions[i], o.answer)
        for i, o in zip(places, outcomes, strict=True)
    ]
    error = np.sqrt(played.right[places].mean() * (1 - played.right[places].mean()) / len(places))
    assert abs(np.mean(right) - played.right[places].mean()) < 4 * error + 0.02
    costs = np.array([o.cost for o in outcomes])
    assert abs(costs.mean() - played.cost[places].mean()) < 4 * costs.std() / len(places) ** 0.5


def test_price_must_be_positive(controller):
    with pytest.raises(ConfigError, match="price: expected at least 1e-12 and at most"):
        controller.answer("3 * 4 =", price=0)


def test_action_sets():
    actions = ActionSet.build((1, 4))
    assert Counter(a.kind for a in actions)[ActionKind.SAMPLE] == 2
    assert actions.position(ActionKind.SAMPLE, 4) == 2
    with pytest.raises(ConfigError, match="sample_widths"):
        ActionSet.build((0,))
