"""What is known of a question before the first attempt."""

from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
import pytest
import torch

from controller.backends.base import run_now
from controller.core import Episode
from controller.granularity import granularity_of
from controller.policy.rules import AlwaysLarge, SelfConsistency
from controller.process.episodes import Plan
from controller.process.lockstep import chance
from controller.process.terms import Terms
from controller.process.wording import (
    NUM_SHAPE_FEATURES,
    NUM_TEXT_FEATURES,
    shape_features,
    text_features,
)
from envs.granularity import replay_of
from envs.traces.table import build_table
from training.compare.simulate import outlook, play_rules
from training.learn import difficulty
from training.learn.difficulty import (
    Outcomes,
    attempt_outcomes,
    cross_fit,
    fit_difficulty,
    fit_forests,
    fit_linear,
    fit_networks,
    fit_plans,
    fit_readout,
    neighbours,
)


@pytest.fixture(scope="module")
def whole(traces):
    return build_table(traces, ["train"])


@pytest.fixture(scope="module")
def train(whole):
    """Every other question: most claims are clear from half of them."""
    return whole.take(np.arange(0, len(whole), 2))


def difficulty_of(table):
    return fit_difficulty(table, Outcomes(table.success_rates))


def readout_of(table, reads, fit):
    return fit_readout(table, Outcomes(table.success_rates), reads, fit)


LIGHTEST = partial(fit_linear, penalties=[0.01])


def log_loss(log_odds, rates):
    return np.mean(np.logaddexp(0, log_odds) - rates * log_odds, 0)


def test_a_network_knows_more_than_a_line_about_new_questions(whole, validation):
    rates, new = whole.success_rates, validation.table.success_rates
    average = np.log(rates.mean(0) / (1 - rates.mean(0)))
    fitted = [readout_of(whole, "prompt", fit) for fit in (fit_linear, fit_networks)]
    losses = [log_loss(outlook(readout, validation.table), new) for readout, _ in fitted]
    assert (losses[1] < losses[0]).all()
    assert (losses[0] < log_loss(average, new)).all()
    line, network = (log_loss(known, rates).mean() for _, known in fitted)
    assert network < line, "the network is chosen"


def test_a_prompt_state_is_read_where_the_wording_says_less(train):
    some = train.take(np.arange(0, len(train), 2))
    assert difficulty_of(some)[0].is_free
    alike = pa.chunked_array([["the same question"] * len(some)])
    readout, _ = difficulty_of(replace(some, texts=alike))
    assert not readout.is_free


def test_log_odds_of_a_question_do_not_depend_on_its_own_outcome(train):
    some = train.take(np.arange(400))
    _, before = readout_of(some, "prompt", LIGHTEST)
    turned = replace(some, answer_correct=some.answer_correct.copy())
    turned.answer_correct[7] = ~turned.answer_correct[7]
    _, after = readout_of(turned, "prompt", LIGHTEST)
    np.testing.assert_array_equal(before[7], after[7])
    assert np.abs(before - after).max() > 1e-3


def test_networks_are_fitted_as_if_alone(train):
    """In a batch of one kind, each network is as good as the others."""
    rows = np.arange(len(train))
    rates = train.success_rates
    losses = [
        log_loss(readout(train.hidden), rates).mean()
        for readout in fit_networks(train.hidden, Outcomes(rates), [rows] * 3)[0]
    ]
    ((alone,),) = fit_networks(train.hidden, Outcomes(rates), [rows])
    assert max(losses) - min(losses) < 0.01
    assert abs(log_loss(alone(train.hidden), rates).mean() - np.mean(losses)) < 0.01


def test_small_forests_are_those_that_would_have_been_grown(train, monkeypatch):
    rates, features = train.success_rates[:300], train.features("shape")[:300]
    given = features, Outcomes(rates), [np.arange(300)]
    sizes = difficulty._LEAVES
    for leaves, (forest,) in zip(sizes, fit_forests(*given), strict=True):
        monkeypatch.setattr(difficulty, "_LEAVES", (leaves,))
        ((alone,),) = fit_forests(*given)
        for name, values in alone.arrays().items():
            np.testing.assert_array_equal(values, forest.arrays()[name])


def test_the_same_questions_give_the_same_bits(train):
    first, second = (difficulty_of(train.take(np.arange(300)))[1] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_wide_prompt_states_are_reduced(train):
    some = train.take(np.arange(400))
    rotation = torch.linalg.qr(torch.randn(300, 64, generator=torch.Generator().manual_seed(0)))[0]
    wide = replace(some, hidden=(some.hidden @ rotation.numpy().T).astype(np.float32))
    readout, _ = readout_of(wide, "prompt", fit_networks)
    assert readout.readouts[0].weights[0].shape == (300 + NUM_SHAPE_FEATURES, 128)
    assert outlook(readout, wide).shape == (400, 2)


@pytest.fixture(scope="module")
def wordings(train):
    """The same questions with nothing but their wording."""
    return replace(train, hidden=None).take(np.arange(0, len(train), 3))


def test_the_wording_tells_kinds_of_questions_apart(wordings, validation):
    readout, known = difficulty_of(wordings)
    assert readout.is_free
    rates, new = wordings.success_rates, validation.table.success_rates
    average = np.log(rates.mean(0) / (1 - rates.mean(0)))
    for log_odds_, truth in ((known, rates), (outlook(readout, validation.table), new)):
        assert (log_loss(log_odds_, truth) < log_loss(average, truth) - 0.1).all()


def test_the_shape_of_a_wording_tells_more_than_the_prompt_state_alone(train):
    rates = train.success_rates
    state, both = (
        cross_fit(features, Outcomes(rates), fit_networks)[1]
        for features in (train.hidden, train.features("prompt"))
    )
    assert log_loss(both, rates).mean() < log_loss(state, rates).mean() - 0.03


def test_what_the_shape_is():
    counts, numbers = np.split(shape_features("What is 12 * 345?\nSay it."), [-16])
    lengths, signs = np.split(np.expm1(counts), [15])
    np.testing.assert_allclose(
        lengths, [25, 12, 12, 5, 3, 1, 2, 3, 2, 2.5, 3, 4, 4, 2.75, 2], rtol=1e-5
    )
    assert dict(zip("+-*/=()%$?,.", signs.round(), strict=True)) == {
        **dict.fromkeys("+-*/=()%$?,.", 0),
        **dict.fromkeys("*?.", 1),
    }
    np.testing.assert_allclose(
        numbers.reshape(4, 4)[:2], [[np.log(13), 1, 1, 0], [np.log(346), 0, 1, 1]], rtol=1e-5
    )
    assert not numbers[8:].any()


@pytest.mark.parametrize("number", ["9" * 10_000, "\u0663\u0660"])  # too large to convert; Arabic
def test_any_number_has_a_shape(number):
    *_, size, _, _, _ = shape_features(f"1 2 3 {number}")
    assert 3 < size < 70


def test_a_question_of_another_shape_is_of_unknown_difficulty(train, validation):
    readout, of_train = difficulty_of(train.take(np.arange(0, len(train), 4)))
    assert np.isfinite(of_train).all()
    assert np.isfinite(outlook(readout, validation.table)).all()
    product = "Solve the following multiplication: 3 * 4."
    whole = f"{product} Give only the result as your final answer."
    assert np.isfinite(readout.of_question(whole, None)).all()
    for strange in (product, "", f"{whole} {whole} {whole}", "9" * 400):
        assert np.isnan(readout.of_question(strange, None)).all()


@pytest.mark.parametrize("reads", ["words", "shape", "prompt"])
def test_a_live_episode_reads_questions_as_replay_does(train, validation, config, reads):
    readout, _ = readout_of(train.take(np.arange(300)), reads, LIGHTEST)
    config = replace(config, reads_prompt=not readout.is_free)
    expected = outlook(readout, validation.table)
    for q in (0, 7):
        episode = Episode(
            validation.questions[q],
            validation.backend,
            config,
            Terms(price=1e-3),
            difficulty=readout,
        )
        run_now(episode.begin())
        np.testing.assert_array_equal(episode.state.difficulty[0], expected[q])
        assert episode.cost == (0 if readout.is_free else validation.table.prompt_tokens[q, 0])


@pytest.fixture(scope="module")
def planned(train, config):
    """A read-out with those of two plans, the outlook of `train` by these, and the process."""
    rules = SelfConsistency(1), AlwaysLarge()
    played = play_rules(rules, train, config, repeats=2)
    right, cost = (np.array([getattr(p, name) for p in played]).T for name in ("right", "cost"))
    plans, known = fit_plans(train, right, cost)
    process = replace(config, plans=tuple(map(Plan, map(str, rules), cost.max(0).tolist())))
    arms, _ = fit_difficulty(train, attempt_outcomes(train))
    return replace(arms, plans=plans), known, process


def test_what_a_plan_costs_is_told_as_its_mean_however_it_varies(wordings):
    cost = np.where(np.arange(len(wordings)) % 2, 1.0, 100.0)[:, None]
    _, known = fit_plans(wordings, np.ones_like(cost), cost)
    assert 100 * chance(known[:, 1]).mean() == pytest.approx(cost.mean(), rel=0.05)


def test_plans_are_worth_the_same_live_and_in_replay(planned, validation):
    readout, known, process = planned
    assert known.shape == (len(known), 4)
    prices = np.array([1e-5, 1e-3])
    told = outlook(readout, validation.table)
    replay = replay_of(validation.table, process, 2, difficulty=told)
    replay.begin(np.arange(2), np.array([0, 7]), prices)
    right, share = np.split(chance(told[[0, 7], -4:]), 2, axis=1)
    worths = right - prices[:, None] * share * [plan.cost for plan in process.plans]
    np.testing.assert_array_equal(replay.episodes.plan_worths, np.maximum(worths, -1))
    table = granularity_of(process).table
    seen = table.observe(replay.episodes)
    names = [f"{name}: {what}" for what in ("worth", "worth_behind") for name in process.plan_names]
    places = [table.names.index(name) for name in names]
    behind = worths - worths.max(1, keepdims=True)
    np.testing.assert_allclose(seen[:, places], np.hstack([worths, behind]), atol=1e-6)
    for row, (q, price) in enumerate(zip((0, 7), prices, strict=True)):
        question = validation.questions[q]
        terms = Terms(price=float(price))
        episode = Episode(question, validation.backend, process, terms, difficulty=readout)
        run_now(episode.begin())
        np.testing.assert_array_equal(table.observe(episode.state)[0], seen[row])


def test_plans_are_unknown_where_a_wording_is(planned, validation):
    readout, _, process = planned
    replay = replay_of(
        validation.table, process, 1, difficulty=np.full((len(validation.table), 2), np.nan)
    )
    replay.begin(np.zeros(1, int), np.zeros(1, int), 1e-3)
    assert np.isnan(replay.episodes.plan_worths).all()
    assert np.isnan(readout.of_question("hi", None)[:, -4:]).all()
    assert np.isfinite(granularity_of(process).table.observe(replay.episodes)).all()


def test_no_wording_no_read_out(wordings):
    assert difficulty_of(replace(wordings, texts=None)) is None


@pytest.mark.parametrize("text", ["", "?", "\ud800 \u202e", "a" * 10**6, "12 " * 10**5])
def test_any_text_has_features(text):
    features = text_features(text)
    assert features.shape == (NUM_TEXT_FEATURES,)
    assert np.isfinite(features).all()


def test_too_few_questions_to_fit_on(train):
    assert difficulty_of(train.take(np.arange(4))) is None
    few = train.take(np.arange(9))
    known, new = neighbours(few, train.take(np.arange(20, 25)))
    assert known.shape == (9, 2)
    assert new.shape == (5, 2)
