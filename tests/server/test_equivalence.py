"""When two answers vote for one another."""

import asyncio
import os
import time

import pytest

from controller.errors import ConfigError
from controller.server.build import build_equivalence
from controller.server.equivalence import Embedding, Numeric, same_value
from tests.server.upstream import Upstream


def canonical(equivalence, answers):
    """Each answer under the spelling that the ones before it give it."""

    async def run():
        known = []
        for answer in answers:
            known.append(await equivalence.canonical(answer, list(dict.fromkeys(known))))
        await equivalence.close()
        return known

    return asyncio.run(run())


def test_numeric():
    found = canonical(Numeric(timeout_s=30), ["1/2", "0.5", r"\frac{2}{4}", "0.51", "x"])
    assert found == ["1/2", "1/2", "1/2", "0.51", "x"]


def test_what_hangs_is_killed_and_the_next_comparison_works():
    """A tower of powers would take for ever to evaluate."""

    async def run():
        numeric = Numeric(timeout_s=20)
        await numeric.canonical("0.5", ["1/2"])  # the process has started now
        numeric._timeout_s = 1.0
        started = time.monotonic()
        tower = "9^{9^{9^{9^9}}}"
        assert await numeric.canonical(tower, ["3"]) == tower
        assert time.monotonic() - started < 15
        numeric._timeout_s = 20
        assert await numeric.canonical("0.5", ["1/2"]) == "1/2"
        await numeric.close()

    asyncio.run(run())


def test_answers_are_not_evaluated(tmp_path):
    path = tmp_path / "pwned"
    same_value(f"__import__('os').system('touch {path}')", "1")
    same_value(f"$__import__('os').system('touch {path}')$", "1")
    assert not os.path.exists(path)


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
        found = canonical(Embedding(upstream.url, "e"), list(vectors))
        assert found == ["Paris", "Paris", "Rome"]
        upstream.script(fail)
        assert canonical(Embedding(upstream.url, "e"), list(vectors)) == list(vectors)


def test_settings():
    for setting in ("close", "http://127.0.0.1/v1", "file:///etc/passwd#m"):
        with pytest.raises(ConfigError, match="expected exact, numeric or URL#MODEL"):
            build_equivalence(setting)
