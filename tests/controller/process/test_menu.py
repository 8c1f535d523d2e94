"""Arms: which actions there are, what is seen of them, and which rule asks whom."""

from dataclasses import replace

import numpy as np
import pytest

from controller.errors import ConfigError
from controller.granularity import ATTEMPTS, granularity_of
from controller.policy.rules import ArmRouter, On, Panel, RulePolicy, VoteCascade, rule_families
from controller.process.actions import ActionKind, Tier
from controller.process.episodes import AttemptColumns, Episodes
from controller.process.menu import family_of, menu_of
from controller.process.types import ModelSpec
from envs.traces.derive import priced_model

ROW = np.zeros(1, np.int64)
ANT, CAT, COW, WHALE = range(4)


def begun(config):
    e = Episodes(config, 1, 8)
    begin(e)
    return e


def begin(e):
    e.reset(
        ROW,
        price=np.array([1e-3]),
        budget=np.array([np.inf]),
        prompt_tokens=np.full((1, 4), 10),
        limits=np.array([[3, 3, 1, 2]]),
        difficulty=np.array([[-2.0, 0.0, 1.0, 3.0]]),
    )


@pytest.fixture
def episodes(menu_config):
    return begun(menu_config)


def attempt(e, rung, answer):
    unknown, none = np.full(1, np.nan), np.zeros(1, bool)
    columns = AttemptColumns(
        rung=np.array([rung]),
        answer=np.array([answer]),
        prompt_tokens=np.array([10]),
        completion_tokens=np.array([20]),
        reasoning_tokens=np.array([0]),
        mean_logprob=unknown,
        min_logprob=unknown,
        cut=none,
        scoreable=none,
        first_child=ROW[:, None],
        num_children=ROW[:, None],
    )
    e.record(ROW, none, columns)
    e.finish_round(ROW)


def allowed(e):
    return [n for n, ok in zip(e.config.actions.names, e.mask()[0], strict=True) if ok]


def seen(e):
    table = granularity_of(e.config).table
    return dict(zip(table.names, table.observe(e)[0].tolist(), strict=True))


def chosen(rule, e):
    return e.config.actions.names[int(RulePolicy(rule).act(e, e.mask())[0])]


def test_any_arm_can_be_asked_at_any_time(episodes):
    assert allowed(episodes) == [
        "STOP",
        *("SAMPLE(ant)", "SAMPLE(ant, 2)", "SAMPLE(cat)", "SAMPLE(cat, 2)"),
        *("ESCALATE(cow)", "ESCALATE(whale)"),
    ]
    for rung, answer in ((WHALE, 0), (WHALE, 0), (COW, 0), (CAT, 1), (CAT, 1)):
        attempt(episodes, rung, answer)
    assert allowed(episodes) == ["STOP", "SAMPLE(ant)", "SAMPLE(ant, 2)", "SAMPLE(cat)"]


def test_a_budget_counts_each_arm_at_its_own_price(episodes):
    episodes.budget[:] = 2 * (10 + 256) + 256
    assert allowed(episodes) == ["STOP", "SAMPLE(ant)", "SAMPLE(ant, 2)", "SAMPLE(cat)"]


def test_prompts_have_a_price_of_their_own_in_dollars(menu_config):
    models = [ModelSpec(name=arm, rung=rung) for rung, arm in enumerate(menu_config.arm_names)]
    rates = {"ant": (1, 4), "cat": (1, 4), "cow": (2, 8), "whale": (30, 60)}
    cost = priced_model(models, rates)
    assert (cost.weights, cost.prompt_shares) == ((1, 1, 2, 15), (0.25, 0.25, 0.25, 0.5))
    assert (cost.dollars, cost.price_of_worth(0.04)) == pytest.approx((4e-6, 1e-4))
    e = begun(replace(menu_config, cost=cost, max_revisions=1))
    e.budget[:] = 1e9
    assert len(allowed(e)) == 7, "worst cases of all actions are known"
    attempt(e, WHALE, 0)
    attempt(e, WHALE, 0)
    assert e.spent[0] == 15 * (0.5 * 10 + 20 + 20)
    assert seen(e)["whale: price"] == pytest.approx(
        np.log10(1e-3 * 15 * menu_config.mean_completion_tokens[WHALE]), abs=1e-6
    )
    with pytest.raises(ConfigError, match=r"dollars: expected what a million .* of ant cost"):
        priced_model(models, {"whale": (30, 60)})
    for unit, told in (("dollars", "trace.json, or cost_usd"), ("seconds", "or seconds of the")):
        with pytest.raises(ConfigError, match=rf"--{unit} ant=PROMPT/WRITTEN, .*{told}"):
            priced_model(models, rates | {"ant": (1, 0)}, unit)
    with pytest.raises(ConfigError, match=r"of ant cost, found \(nan, 1\)"):
        priced_model(models, rates | {"ant": (float("nan"), 1)})


def test_families_count_not_heads(episodes):
    attempt(episodes, ANT, 0)
    attempt(episodes, ANT, 0)
    assert (seen(episodes)["families_behind_leader"], seen(episodes)["ant: attempts"]) == (1, 0.25)
    attempt(episodes, CAT, 1)
    attempt(episodes, COW, 1)
    told = seen(episodes)
    assert (told["families_behind_leader"], told["families_behind_rival"]) == (1, 1)
    assert (told["cow: leader_share"], told["ant: leader_share"]) == (1, 0)
    attempt(episodes, WHALE, 1)
    assert seen(episodes)["families_behind_leader"] == 2


def test_a_new_episode_forgets_the_last(episodes, menu_config):
    fresh = seen(episodes)
    for rung in (ANT, CAT, WHALE):
        attempt(episodes, rung, rung)
    begin(episodes)
    assert seen(episodes) == fresh


def test_each_arm_has_its_expected_cost_and_chance(episodes):
    told, config = seen(episodes), episodes.config
    for rung, arm in enumerate(config.arm_names):
        cost = config.cost.weights[rung] * (10 + config.mean_completion_tokens[rung])
        assert told[f"{arm}: price"] == pytest.approx(np.log10(1e-3 * cost), abs=1e-6)
    assert [told[f"{arm}: difficulty"] for arm in config.arm_names] == [-2, 0, 1, 3]


@pytest.mark.parametrize("budget", [np.inf, 900.0])
def test_numbers_of_one_episode_are_those_of_arrays(episodes, budget):
    episodes.budget[:] = budget
    table = granularity_of(episodes.config).table
    for rung, answer in ((ANT, 0), (CAT, 1), (ANT, -1), (WHALE, 1), (COW, 2)):
        np.testing.assert_array_equal(table.observe(episodes), table.observe(episodes, ROW))
        np.testing.assert_array_equal(episodes.mask(), episodes.mask(ROW))
        attempt(episodes, rung, answer)


def test_a_pair_is_seen_as_before(process):
    assert granularity_of(process) is ATTEMPTS
    assert process.actions.names == ("STOP", "SAMPLE", "SAMPLE(2)", "REVISE", "ESCALATE")


def test_a_panel_asks_on_until_families_agree(episodes):
    panel = Panel(("ant", "cat", "whale"), 2)
    assert chosen(panel, episodes) == "SAMPLE(ant)"
    attempt(episodes, ANT, 0)
    assert chosen(panel, episodes) == "SAMPLE(cat)"
    attempt(episodes, CAT, 1)
    assert chosen(panel, episodes) == "ESCALATE(whale)"
    attempt(episodes, WHALE, 1)
    assert chosen(panel, episodes) == "STOP"


def test_a_rule_for_two_arms_is_played_on_any_two(episodes):
    cascade = On(VoteCascade(2, 1.0), "cat", "cow")
    for answer in (0, 1):
        assert chosen(cascade, episodes) == "SAMPLE(cat)"
        attempt(episodes, CAT, answer)
    assert chosen(cascade, episodes) == "ESCALATE(cow)"


def test_a_router_weighs_chance_against_cost(episodes):
    assert chosen(ArmRouter(1e-6), episodes) == "ESCALATE(whale)"
    assert chosen(ArmRouter(10.0), episodes) == "STOP"
    assert chosen(ArmRouter(0.05), episodes) == "SAMPLE(cat)"
    attempt(episodes, CAT, 0)
    assert chosen(ArmRouter(1e-6), episodes) == "STOP"


def test_rules_cover_every_two_arms(menu_config):
    families = rule_families(menu_config)
    pairs = {(rule.first, rule.then) for rule in families["adaptive cascade"]}
    assert len(pairs) == 6
    assert [rule.arms for rule in families["always one arm"]] == [
        (arm,) for arm in menu_config.arm_names
    ]


def test_arms_are_checked(menu_config):
    with pytest.raises(ConfigError, match="arms: expected distinct names"):
        menu_of(["a", "b", "a"])
    with pytest.raises(ConfigError, match="arms: expected one per rung, 4"):
        replace(menu_config, arms=menu_config.arms[:3])
    with pytest.raises(ConfigError, match="expected one with SAMPLE"):
        menu_config.actions.position(ActionKind.SAMPLE)


def test_families_follow_from_names_where_nothing_is_said():
    arms = menu_of(
        ["gpt-4o", "gpt-4o-mini", "claude-3"], ["gpt-4o-mini"], {"claude-3": "anthropic"}
    )
    assert [arm.family for arm in arms] == ["gpt", "gpt", "anthropic"]
    assert [arm.tier for arm in arms] == [Tier.SMALL, Tier.SMALL, Tier.LARGE]
    assert family_of("42") == "42"
