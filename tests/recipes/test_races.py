from dataclasses import replace

import numpy as np
import pytest

from controller.errors import ConfigError, TraceFormatError
from envs.traces.format import TraceSet
from recipes.drop import ALL, Played, first, fit_value, play, rules, train, unlike
from recipes.race import keeps
from recipes.races import Races, RaceVectorEnv, read_races
from tests.conftest import CHECKPOINTS
from training.learn.config import PPOConfig


@pytest.fixture(scope="module")
def table():
    whole = read_races(TraceSet.read(CHECKPOINTS / "drop"), ("test",))
    rows = {k: v[:40] for k, v in vars(whole).items() if k not in ("group", "signals", "kv_cost")}
    return replace(whole, signals=whole.signals[:, :40], **rows)


@pytest.fixture(scope="module")
def value(table):
    return fit_value(table)


def test_all_samples_to_their_end_cost_what_was_recorded(table):
    played = play(table, first(16, settles=False))
    np.testing.assert_array_equal(played.tokens, table.prompt_tokens + table.length.sum(1))
    steps = [
        sum(prompt + t for length in row for t in range(1, length + 1))
        for prompt, row in zip(table.prompt_tokens, table.length, strict=True)
    ]
    np.testing.assert_array_equal(played.kv, steps)


def test_one_sample_is_right_as_often_as_recorded(table):
    np.testing.assert_allclose(play(table, first(1), 16).right, table.right.mean(1))


def test_stopping_once_the_vote_is_settled_changes_no_answer(table):
    plain, settled = (play(table, first(16, settles=s)) for s in (False, True))
    np.testing.assert_array_equal(plain.right, settled.right)
    assert settled.tokens.mean() < plain.tokens.mean()


def test_nobody_starts_for_nothing(table):
    played = play(table, first(0))
    assert played.tokens.sum() == played.right.sum() == played.kv.sum() == 0


def test_what_a_policy_sees_does_not_depend_on_what_is_right(table, value):
    other = replace(table, right=np.random.default_rng(0).permutation(table.right))
    envs = [RaceVectorEnv(t, value, 64) for t in (table, other)]
    (seen, info), (again, told) = (env.reset(seed=1) for env in envs)
    rng = np.random.default_rng(2)
    for _ in range(20):
        np.testing.assert_array_equal(seen, again)
        np.testing.assert_array_equal(info["action_mask"], told["action_mask"])
        actions = np.array([rng.choice(np.flatnonzero(row)) for row in info["action_mask"]])
        (seen, *_, info), (again, *_, told) = (env.step(actions) for env in envs)


@pytest.mark.parametrize("kv_cost", [0.0, 0.01])
def test_rewards_add_up_to_utility(table, value, kv_cost):
    env = RaceVectorEnv(replace(table, kv_cost=kv_cost), value, 32)
    _, info = env.reset(seed=0)
    price, total = env.price.copy(), np.zeros(32)
    over = np.zeros(32, bool)
    while not over.all():
        actions = info["action_mask"].shape[1] - 1 - info["action_mask"][:, ::-1].argmax(1)
        _, reward, done, _, info = env.step(actions)
        total += np.where(over, 0, reward)
        for row in np.flatnonzero(done & ~over):
            final = {k: v[row] for k, v in info["final_info"].items()}
            assert final["price"] == price[row]
            tokens = final["cost"] - kv_cost * final["kv"]
            assert tokens == pytest.approx(round(tokens))
            assert total[row] == pytest.approx(final["right"] - price[row] * final["cost"])
        over |= done


def test_of_texts_that_begin_alike_one_goes_on(table):
    races = Races(table, 40)
    races.begin(np.arange(40), np.arange(40), np.zeros(40, np.int64))
    races.advance(races.marks(), races.marks().running)
    marks = races.marks()
    kept = unlike(1.0)(marks)
    earlier = np.tri(16, k=-1, dtype=bool)
    again = (marks.common >= 1) & kept[:, :, None] & (kept | marks.ended)[:, None] & earlier
    assert not again.any()
    assert (kept | marks.ended)[:, :1].all()  # the first of all
    assert kept.sum() < marks.running.sum()


def test_the_same_seed_teaches_the_same_policy(table):
    config = PPOConfig(total_steps=1024, num_envs=32, num_steps=8, hidden_sizes=(8,))
    one, other = (train(table, config) for _ in range(2))
    decided: list[Played] = [play(table, learned.at(1e-3)) for learned in (one, other)]
    np.testing.assert_array_equal(decided[0].tokens, decided[1].tokens)


def test_memory_is_on_the_bill_where_it_costs(table):
    bill = replace(table, kv_cost=0.1)
    free, paid = (play(each, first(8)) for each in (table, bill))
    np.testing.assert_array_equal(paid.kv, free.kv)
    np.testing.assert_array_equal(free.cost, free.tokens)
    np.testing.assert_allclose(paid.cost, free.tokens + 0.1 * free.kv)
    assert bill.prices.high < table.prices.high


def test_every_family_may_give_up_or_drop_nothing(table, value):
    families = rules(table, value)
    assert len(families.pop(ALL)) == 1
    assert all(len(settings) >= len(keeps(16)) for settings in families.values())


def test_a_set_without_marks_is_refused(traces):
    with pytest.raises(TraceFormatError, match="running marks"):
        read_races(traces, ("test",))
    with pytest.raises(ConfigError, match="kv_cost: expected a number from 0 up, found -1"):
        read_races(traces, ("test",), kv_cost=-1)
