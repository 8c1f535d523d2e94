"""Decisions replayed on what a service has logged, before real sockets."""

import json
import logging

import pytest
from typer.testing import CliRunner

from controller.backends.ladder import BlockingBackend
from controller.errors import ConfigError
from controller.loop import Controller
from controller.server.logs import JsonFormatter
from controller.server.ops import episode_fields
from envs.traces.readers import read_episodes
from tests.controller.server.conftest import (  # noqa: F401 - fixtures
    QUESTION,
    checkpoint,
    ladder,
    large,
    serve,
    small,
)
from tests.controller.server.upstream import completion
from training.cli.app import app
from training.compare.shadow import LoggedFirst, shadow

PRICE = 1e-4


@pytest.fixture
def log(serve, small, large, tmp_path):  # noqa: F811
    """Three questions that one controller has answered at a price, and two that a rule has."""
    answers = (completion(f"Answer: {n % 3}", logprob=-2.0) for n in range(40))
    small.script(*answers)
    service = serve(small, large)
    for number in range(3):
        service.ask(f"{QUESTION} ({number})", price=PRICE, question_id=f"q{number}")
    for number in (3, 4):
        service.ask(f"{QUESTION} ({number})", price=PRICE, rule="always-large")
    path = tmp_path / "log.jsonl"
    with path.open("w") as file:
        for one in service.served:
            record = logging.LogRecord("allot.episodes", 20, "", 0, "episode", (), None)
            record.fields = episode_fields(one, texts=True)
            print(JsonFormatter().format(record), file=file)
    small.script(completion("Answer: 7"))
    return path


def replayed(checkpoint, log, small, large, spend, right=lambda question, answer: None):  # noqa: F811
    backend = LoggedFirst(BlockingBackend(ladder(small, large)), checkpoint.config.cost, spend)
    with Controller.load(checkpoint, backend) as controller:
        return shadow(read_episodes(log), controller, right)


def test_the_same_controller_is_the_same_for_nothing(checkpoint, log, small, large):  # noqa: F811
    found = replayed(checkpoint, log, small, large, 0.0)
    (cost,) = found.figures
    assert (cost.questions, cost.difference, found.same, found.spent) == (3, 0.0, 1.0, 0.0)
    assert found.left_out == 2
    assert small.calls == 0


def test_what_the_log_has_not_is_made_up_to_a_cap(checkpoint, log, small, large):  # noqa: F811
    def right(question, answer):
        return answer == "7"

    found = replayed(checkpoint, log, small, large, 1e6, right)
    cost, accuracy, utility = found.figures
    assert (cost.questions, found.left_out) == (5, 0)
    assert cost.difference == pytest.approx(cost.controller - cost.served) != 0
    assert cost.interval[0] <= cost.difference <= cost.interval[1]
    assert utility.difference == pytest.approx(accuracy.difference - PRICE * cost.difference)
    assert 0 < found.spent < 1e6
    assert small.calls > 0
    capped = replayed(checkpoint, log, small, large, 1.0)
    assert capped.left_out == 2
    assert 0 < capped.spent < found.spent


def test_another_log_is_told(checkpoint, log, small, large):  # noqa: F811
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    for changed, message in (
        ({"question": None}, "--log-texts"),
        ({"limited": ["cancelled"]}, "at least 2 questions"),
        ({"models": [{"name": "other", "rung": 0}]}, "NAME=URL#MODEL"),
    ):
        log.write_text("\n".join(json.dumps(row | changed) for row in rows))
        with pytest.raises(ConfigError, match=message):
            replayed(checkpoint, log, small, large, 0.0)


def test_the_command(log, small, large, tmp_path):  # noqa: F811
    references, more = tmp_path / "references.jsonl", tmp_path / "more.jsonl"
    references.write_text(
        "\n".join(json.dumps({"question_id": f"q{n}", "gold": ["7", "7.0"]}) for n in range(2))
    )
    more.write_text(json.dumps({"question_id": "q2", "reference": "7"}))
    known = [
        f"--references={references}",
        f"--references={more}",
        "--map-references=gold=reference",
    ]
    places = ["--small", f"{small.url}#small", "--large", f"{large.url}#large"]
    told = CliRunner().invoke(
        app,
        ["shadow", str(log), *places, "--spend", "1e5", *known, "--json"],
    )
    assert told.exit_code == 0, told.output
    figures = {f["quantity"]: f["questions"] for f in json.loads(told.output)["figures"]}
    assert figures == {"cost": 5, "accuracy": 3, "utility": 3}
    told = CliRunner().invoke(app, ["shadow", str(log), *places, "--spend", "1e5"])
    assert "same answer" in told.output
