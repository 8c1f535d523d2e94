"""A conversation finds its models' prompts warm where cached prompt tokens cost less."""

import pytest

from controller.backends.openai.prompt_lengths import WARM_S, WarmPrompts
from controller.backends.places import ModelPlace
from controller.errors import ConfigError
from tests.controller.server.conftest import QUESTION
from tests.controller.server.upstream import completion

CHEAP = 1e-6
"""At which the controller goes on for long."""


class Caching:
    """A server that finds the beginning of a prompt cached, as hosted ones do."""

    def __init__(self, name, *, tells=True):
        self.name, self.tells, self.read = name, tells, []

    async def __call__(self, exchange):
        turns = [turn["content"] for turn in exchange.body["messages"]]
        shared = max((common(turns, known) for known in self.read), default=0)
        self.read.append(turns)
        usage = {"prompt_tokens": size(turns), "completion_tokens": 4}
        if self.tells:
            usage["prompt_tokens_details"] = {"cached_tokens": size(turns[:shared])}
        await exchange.reply(completion(model=self.name, usage=usage))


def size(turns):
    return sum(len(turn) // 4 for turn in turns)


def common(turns, known):
    pairs = enumerate(zip(turns, known, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(turns), len(known)))


def talk(service, before, **allot):
    body = {"model": "allot", "messages": before, "allot": {"price": CHEAP, **allot}}
    return service.http.post("/v1/chat/completions", json=body).json()


LONG = [
    {"role": "user", "content": "Here is a long report. " * 200},
    {"role": "assistant", "content": "I have read it."},
    {"role": "user", "content": QUESTION},
]
NEXT = [*LONG, {"role": "assistant", "content": "Answer: 7"}, {"role": "user", "content": "And 9?"}]


def costs(service, scripts, rule="always-large"):
    for upstream, name in scripts:
        upstream.script(Caching(name))
    return [talk(service, turns, rule=rule)["allot"]["cost"] for turns in (LONG, NEXT)]


@pytest.mark.parametrize("rule", ["always-small", "always-large"])
def test_a_next_turn_is_charged_for_what_is_new(serve, small, large, rule):
    service = serve(small, large, cached=0.1)
    first, second = costs(service, ((small, "small"), (large, "large")), rule)
    assert second < first / 2
    cold = serve(small, large)
    first, second = costs(cold, ((small, "small"), (large, "large")), rule)
    assert second > first, "as before where nobody says that cached tokens cost less"


def test_the_policy_sees_what_staying_saves(serve, small, large):
    service = serve(small, large, cached=0.0)
    large.script(Caching("large"))
    small.script(Caching("small"))
    talk(service, LONG, rule="always-large")
    first, second = (
        talk(service, turns, explain=True)["allot"]["decisions"][0]["observation"]
        for turns in (NEXT, [{**LONG[0], "content": LONG[0]["content"] + "!"}, *NEXT[1:]])
    )
    changed = {name for name in first if first[name] != pytest.approx(second[name], rel=1e-3)}
    assert changed == {"escalate_price"}
    assert first["escalate_price"] < second["escalate_price"]


def test_a_budget_is_kept_where_a_prompt_has_gone_cold(serve, small, large):
    """What is expected to be cached does not let in what would not fit without."""
    service = serve(small, large, cached=0.0)
    large.script(Caching("large"))
    talk(service, LONG, rule="always-large")
    calls = large.calls
    # A warm prompt's worst case costs 11 x 210, a cold one's 11 x 1,400.
    found = talk(service, NEXT, rule="always-large", budget=6000)
    assert (large.calls, found["allot"]["model"]) == (calls, "small")
    assert found["allot"]["cost"] <= 6000


def turns(*texts):
    return [{"role": "user", "content": text} for text in texts]


def test_beginnings_are_known_for_a_while():
    now = [0.0]
    warm = WarmPrompts(clock=lambda: now[0])
    warm.learn(turns("a", "b"), 100, 0)
    assert warm.tokens(turns("a", "b", "c")) == 100
    assert 40 <= warm.tokens(turns("a", "x")) <= 60, "the last turn may have been wrapped"
    assert warm.tokens(turns("x", "b")) == 0
    now[0] = WARM_S
    assert warm.tokens(turns("a", "b", "c")) == 0


def test_a_server_that_caches_nothing_is_not_expected_to():
    warm = WarmPrompts()
    warm.learn(turns("a"), 100, 0)
    for _ in range(3):
        assert warm.tokens(turns("a", "b")) == 100
        warm.learn(turns("a"), 100, 0)
    assert warm.tokens(turns("a", "b")) == 0
    warm.learn(turns("a"), 100, 64)
    assert warm.tokens(turns("a", "b")) == 100


def test_a_share_is_one():
    assert ModelPlace.parse("a=http://x/v1#m,cached=0.25").cached == 0.25
    for wrong in ("2", "x", "nan"):
        with pytest.raises(ConfigError, match="share of 0 to 1 as cached"):
            ModelPlace.parse(f"a=http://x/v1#m,cached={wrong}")
