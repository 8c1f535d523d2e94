"""When two answers vote for one another."""

import asyncio

import pytest

from controller.answers import answer_kind
from controller.errors import ConfigError
from controller.server.equivalence import ByKind, Embedding, build_equivalence
from tests.controller.server.upstream import Upstream

WHOLE = answer_kind("whole")


def canonical(equivalence, answers):
    """Each answer under the spelling that the ones before it give it."""

    async def run():
        known = []
        for answer in answers:
            known.append(await equivalence.canonical(answer, list(dict.fromkeys(known))))
        await equivalence.close()
        return known

    return asyncio.run(run())


def test_answers_vote_for_one_another_as_their_kind_says():
    number = ByKind(answer_kind("number"))
    found = canonical(number, [r"\frac{\sqrt{2}}{2}", r"1/\sqrt{2}", "0.5", "x"])
    assert found == [r"\frac{\sqrt{2}}{2}", r"\frac{\sqrt{2}}{2}", "0.5", "x"]
    assert canonical(ByKind(answer_kind("exact")), ["1/2", "0.5"]) == ["1/2", "0.5"]


def test_embedding():
    """Close vectors are one answer; a server that fails makes none equal."""
    vectors = {"Paris": [1.0, 0.0], "It is Paris.": [0.95, 0.1], "Rome": [0.0, 1.0]}

    async def embed(exchange):
        data = [{"object": "embedding", "index": i, "embedding": vectors[text]}
                for i, text in enumerate(exchange.body["input"])]  # fmt: skip
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        await exchange.reply({"object": "list", "model": "e", "data": data, "usage": usage})

    async def fail(exchange):
        await exchange.reply({}, status=500)

    with Upstream(embed).running() as upstream:
        found = canonical(Embedding(WHOLE, upstream.url, "e"), list(vectors))
        assert found == ["Paris", "Paris", "Rome"]
        upstream.script(fail)
        assert canonical(Embedding(WHOLE, upstream.url, "e"), list(vectors)) == list(vectors)


def test_settings():
    for setting in ("close", "http://127.0.0.1/v1", "file:///etc/passwd#m"):
        with pytest.raises(ConfigError, match="expected URL#MODEL"):
            build_equivalence(answer_kind("auto"), setting)
