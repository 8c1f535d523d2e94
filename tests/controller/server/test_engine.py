"""Served, live and in the environment: one decision core."""

import asyncio
import dataclasses

import numpy as np
import pytest
import torch

from controller.backends.base import Wrapped, run_now
from controller.backends.ladder import ThreadedBackend
from controller.backends.local.adapters import load_adapters
from controller.backends.local.backend import TransformersBackend, load_model
from controller.core import Decision, Episode, play
from controller.errors import ConfigError
from controller.loop import Controller
from controller.policy.deciders import PolicyDecider
from controller.policy.network import PolicyNetwork
from controller.process.terms import Terms
from controller.process.types import Question
from controller.server.engine import Engine, RequestTerms, identified
from controller.server.variants import Variants
from envs.compute import ComputeEnv
from tests.conftest import CHECKPOINTS
from tests.controller.server.conftest import variant


class Recordings(ThreadedBackend):
    """Recorded attempts, found by a question's text: the service makes its own ids."""

    def __init__(self, backend, questions):
        super().__init__(backend)
        self.questions = {question.text: question for question in questions}

    async def prompt_states(self, questions, *, hidden=False):
        known = [self.questions[question.text] for question in questions]
        return await super().prompt_states(known, hidden=hidden)

    async def attempts(self, requests):
        known = [dataclasses.replace(r, question=self.questions[r.question.text]) for r in requests]
        return await super().attempts(known)

    async def verify(self, pairs, deadline=None):
        known = [(self.questions[q.text], a) for q, a in pairs]
        return await super().verify(known, deadline)


def essence(decisions):
    """All that a decision saw, thought and did."""
    return [
        (
            str(d.action),
            d.probabilities,
            d.value,
            d.observation,
            d.leader,
            d.cost,
            [(a.attempt_id, a.answer) for a in d.attempts],
        )
        for d in decisions
    ]


@pytest.fixture(scope="module")
def some(validation):
    places = np.random.default_rng(5).choice(len(validation.questions), 40, replace=False)
    return [validation.questions[i] for i in places]


@pytest.mark.parametrize("trained", [True, False], ids=["trained", "exploring"])
def test_served_equals_live_and_environment(checkpoint, validation, some, trained):
    """The same attempts make the same decisions, number by number, with every action."""
    if not trained:
        torch.manual_seed(0)
        network = PolicyNetwork(checkpoint.policy.config)
        checkpoint = dataclasses.replace(checkpoint, policy=network)

    def new_decider():
        return PolicyDecider(checkpoint.policy, exploration=0.0 if trained else 1.0, seed=7)

    prices = np.geomspace(*checkpoint.price_range, len(some))
    live = Controller(dataclasses.replace(checkpoint, support=None), validation.backend)
    live.decider = new_decider()
    answered = [live.answer(q, price=p) for q, p in zip(some, prices, strict=True)]
    taken = {str(d.action) for o in answered for d in o.decisions}
    assert len(taken) >= (4 if trained else 6), taken

    async def served():
        backend = Recordings(validation.backend, validation.questions)
        version = variant(checkpoint, backend, fallback=None)
        engine = Engine(Variants([dataclasses.replace(version, decider=new_decider())]), backend)
        asked = [
            engine.answer(q, RequestTerms(price=p, give_up=True))
            for q, p in zip(some, prices, strict=True)
        ]
        try:
            # Side by side, but for the explorer: its draws come in order.
            return await asyncio.gather(*asked) if trained else [await one for one in asked]
        finally:
            await backend.close()

    for one, other in zip(answered, asyncio.run(served()), strict=True):
        assert essence(one.decisions) == essence(other.decisions)
        assert (one.answer, one.cost) == (other.answer, other.cost)

    env = ComputeEnv(
        some,
        validation.backend,
        checkpoint.config,
        validation.grader,
        difficulty=checkpoint.difficulty,
        permute=False,
    )
    for i, (outcome, price) in enumerate(zip(answered, prices, strict=True)):
        options = {"question": i, "price": price, "round_price": 0.0, "budget": np.inf}
        seen, _ = env.reset(seed=0, options=options)
        for decision in outcome.decisions:
            np.testing.assert_array_equal(seen, np.float32(list(decision.observation.values())))
            position = checkpoint.config.actions.index(decision.action)
            seen, _, terminated, _, info = env.step(position)
        assert terminated
        assert (info["answer"], info["cost"]) == (outcome.answer, outcome.cost)


def test_served_equals_live_on_local_models(checkpoint):
    """A seed and a question make the same attempts, one by one or in shared batches."""
    small = load_adapters(
        load_model(CHECKPOINTS / "small", 0),
        {name: CHECKPOINTS / name for name in ("reviser", "verifier")},
    )
    models = [small, load_model(CHECKPOINTS / "large", 1)]
    texts = ["3 * 4 =", "Spell this word backward (example: sun -> nus): planet"]
    unguarded = dataclasses.replace(checkpoint, support=None)
    live = Controller(unguarded, TransformersBackend(models, temperature=0.0))

    async def served():
        backend = ThreadedBackend(TransformersBackend(models, temperature=0.0))
        engine = Engine(Variants([variant(checkpoint, backend, fallback=None)]), backend)
        try:
            return await asyncio.gather(
                *(
                    engine.answer(
                        Question(question_id="", text=text),
                        RequestTerms(price=1e-4, seed=1, give_up=True),
                    )
                    for text in texts
                )
            )
        finally:
            await backend.close()

    for text, found in zip(texts, asyncio.run(served()), strict=True):
        question = identified(Question(question_id="", text=text), RequestTerms(seed=1))
        outcome = live.answer(question, price=1e-4)
        assert [d.action for d in outcome.decisions] == [d.action for d in found.decisions]
        assert (outcome.answer, outcome.cost) == (found.answer, found.cost)


@pytest.mark.parametrize(
    "fields", [{"top_p": 1.0, "presence_penalty": 0, "prompt_cache_key": "mine"}, {"top_p": 0.5}]
)
def test_what_models_in_this_process_do_not_get_is_refused_unless_it_changes_nothing(
    checkpoint, fields
):
    models = [load_model(CHECKPOINTS / name, rung) for rung, name in enumerate(("small", "large"))]
    question = Question(question_id="", text="3 * 4 =", fields=fields)
    terms = RequestTerms(price=1e-4, rule="always-small")

    async def served():
        backend = ThreadedBackend(TransformersBackend(models))
        engine = Engine(Variants([variant(checkpoint, backend, fallback=None)]), backend)
        try:
            await engine.check(question, terms)
            return await engine.answer(question, terms)
        finally:
            await backend.close()

    if fields["top_p"] == 1:
        assert asyncio.run(served()).ignored == ("prompt_cache_key",)
    else:
        with pytest.raises(ConfigError, match="top_p"):
            asyncio.run(served())


@pytest.mark.parametrize("ignored", [(), ("log_price", "vote_share")])
def test_numpy_policy_is_the_torch_policy(checkpoint, ignored):
    """Batch 1 without torch gives the same distribution and value."""
    config = dataclasses.replace(checkpoint.policy.config, ignored_features=ignored)
    policy = PolicyNetwork(config)
    policy.load_state_dict(checkpoint.policy.state_dict())
    rng, decider = np.random.default_rng(0), PolicyDecider(policy)
    for _ in range(50):
        seen = rng.normal(size=(1, checkpoint.policy.config.num_features)).astype(np.float32)
        mask = rng.random((1, checkpoint.policy.config.num_actions)) < 0.6
        mask[0, 0] = True
        probabilities, value = decider.judge(seen, mask)
        with torch.no_grad():
            expected = policy.log_probs(torch.from_numpy(seen), torch.from_numpy(mask))
            worth = policy.value(torch.from_numpy(seen))
        np.testing.assert_allclose(probabilities, expected.exp()[0], atol=1e-6)
        np.testing.assert_allclose(value, float(worth[0]), rtol=1e-5, atol=1e-6)
        assert not probabilities[~mask[0]].any()


def test_a_choice_is_told_before_it_is_carried_out(checkpoint, validation, some):
    async def order():
        told = []

        class Told(Wrapped):
            async def attempts(self, requests):
                told.append("work")
                return await super().attempts(requests)

        backend = Told(ThreadedBackend(validation.backend))
        episode = Episode(some[0], backend, checkpoint.config, Terms(price=1e-5))
        await episode.begin()
        async for step in play(episode, PolicyDecider(checkpoint.policy)):
            told.append("decision" if isinstance(step, Decision) else "choice")
        await backend.close()
        return told

    told = asyncio.run(order())
    assert told[:3] == ["choice", "work", "decision"]


def test_exploration_tells_its_propensities(checkpoint, validation, some):
    """Drawn actions are as frequent as their propensities say."""
    episode = Episode(some[0], validation.backend, checkpoint.config, Terms(price=1e-4))
    (state,) = run_now(validation.backend.prompt_states([some[0]], hidden=True))
    episode.start(state)
    decider = PolicyDecider(checkpoint.policy, exploration=0.5, seed=3)
    choices = [decider.choose(episode, episode.mask()) for _ in range(3000)]
    for name, propensity in {str(c.action): c.propensity for c in choices}.items():
        share = np.mean([str(c.action) == name for c in choices])
        assert share == pytest.approx(propensity, abs=4 * (propensity / 3000) ** 0.5)
