"""A recording on a cluster is the plain one, whoever dies on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain

import numpy as np
import psutil
import pytest
from ray.cloudpickle import register_pickle_by_value, unregister_pickle_by_value
from ray.cluster_utils import Cluster as RayCluster
from rich.console import Console

from controller.checkpoint import load_checkpoint
from controller.errors import BackendError, ConfigError
from controller.process.types import ModelSpec, Question
from envs.questions.grader import KindGrader
from tests import scripted
from tests.conftest import CHECKPOINTS
from tests.controller.server.upstream import Upstream
from tests.scripted import Scripted
from tests.training.conftest import ROOT
from tests.training.record.test_recorders import record as record_served
from tests.training.record.test_recorders import said, seeded
from tests.training.record.test_recording import content
from training.compare.evaluate import play_prices
from training.learn.runs import train_all
from training.learn.settings import resolve
from training.record.cluster import Cluster, RayRecorder, connected, map_on
from training.record.plans import Missing
from training.record.recorders import LocalRecorder
from training.record.settings import RecordConfig
from training.record.sources import find_source

NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}


@pytest.fixture(scope="module")
def record(validation, tmp_path_factory):
    """Command that records 45 questions in 15 shards."""
    path = tmp_path_factory.mktemp("questions") / "questions.jsonl"
    rows = [
        {
            "question_id": q.question_id,
            "question": q.text,
            "reference": q.reference,
            "split": "test",
        }
        for q in validation.questions[::19][:45]
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    given = ("--samples", 5, "--escalations", 1, "--shard-questions", 3, "--max-new-tokens", 64)
    return ("record", "--questions", path, *given, "--seed", 3)


@pytest.fixture(scope="module")
def cluster():
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
        started = RayCluster(initialize_head=True, head_node_args=NODE)
        try:
            started.add_node(**{k: v for k, v in NODE.items() if k != "include_dashboard"})
            yield started
        finally:
            processes = processes_of(started)
            started.shutdown()
    wait_for(lambda: not any(lives(process) for process in processes))


def wait_for(condition, timeout_s=180):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, condition
        time.sleep(0.1)


def lives(process):
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def processes_of(cluster):
    """Processes of all nodes: Ray's own and those that these started."""
    found = []
    for node in cluster.list_all_nodes():
        for info in chain.from_iterable(node.all_processes.values()):
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(info.process.pid)
                found += [process, *process.children(recursive=True)]
    return found


def workers(cluster, name="ShardWorker"):
    """Processes that work at something, on all nodes."""
    found = []
    for process in processes_of(cluster):
        with suppress(psutil.NoSuchProcess):  # a zombie is none either
            if name in " ".join(process.cmdline()):
                found.append(process)
    return found


def test_nothing_is_lost_or_doubled_when_driver_and_worker_are_killed(
    cluster, record, allot, environment, tmp_path
):
    plain, out = tmp_path / "plain", tmp_path / "out"
    allot(*record, "--out", plain)
    command = [sys.executable, "-m", "training.cli", *map(str, record), "--out", str(out)]
    command += ["--ray", cluster.address]

    def drive(**options):
        return subprocess.Popen(command, cwd=ROOT, env=environment, **options)

    def num_shards():
        return len(list(out.glob("recording/attempts-*.parquet")))

    driver = drive()
    wait_for(lambda: num_shards() >= 2)
    driver.kill()
    driver.wait()
    assert not (out / "trace.json").exists()
    wait_for(lambda: not workers(cluster))
    done = num_shards()

    driver = drive(stderr=subprocess.PIPE, text=True)
    wait_for(lambda: num_shards() >= done + 2)
    workers(cluster)[0].kill()
    _, errors = driver.communicate(timeout=600)
    assert driver.returncode == 0, errors
    assert "a worker has died" in errors
    assert content(out) == content(plain)
    ids = [(row["question_id"], row["attempt_id"]) for row in content(out)["attempts"]]
    assert len(ids) == len(set(ids))
    assert not (out / "recording").exists()
    wait_for(lambda: not workers(cluster))


def test_workers_that_ask_servers_record_what_one_process_does(cluster, tmp_path):
    with Upstream(seeded).running() as upstream:
        here = record_served(upstream, tmp_path / "here")
        there = record_served(upstream, tmp_path / "there", Cluster(address=cluster.address))
    assert said(there) == said(here)


def test_errors_of_workers_are_those_of_this_machine(cluster, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/config.json").write_text("{}")
    source = find_source([str(tmp_path / "empty")])
    with pytest.raises(BackendError, match="expected a directory or hub model") as here:
        source.recorder(RecordConfig())
    with (
        pytest.raises(BackendError) as there,
        RayRecorder(source.recorder, RecordConfig(), Cluster(address=cluster.address)) as recorder,
    ):
        recorder.models  # noqa: B018
    assert str(there.value) == str(here.value)


class Poisoned(Scripted):
    """Takes its process along when it is asked a certain question, and has other models each time.

    Args:
        name: of its model; that of its process if empty.
    """

    def __init__(self, name):
        super().__init__([ModelSpec(name=name or f"model-{os.getpid()}", rung=0)], ["1"])

    async def attempts(self, requests):
        if any(request.question.text == "poison" for request in requests):
            os._exit(1)
        return await super().attempts(requests)


@dataclass(frozen=True)
class Poison:
    name: str

    def recorder(self, config):
        return LocalRecorder(Poisoned(self.name), KindGrader(), config)


@pytest.fixture
def sent_along():
    """Workers do not have the tests: what is theirs travels with its code."""
    modules = (sys.modules[__name__], scripted)
    for module in modules:
        register_pickle_by_value(module)
    yield
    for module in modules:
        unregister_pickle_by_value(module)


def test_a_shard_that_kills_whoever_records_it_stops_the_recording(cluster, sent_along):
    texts = ("fine", "poison")
    todo = [
        Missing(
            question=Question(question_id=text, text=text, reference="1"),
            split="test",
            indices={"fake": (0,)},
        )
        for text in texts
    ]
    config = RecordConfig(samples=1, shard_questions=1)
    with (
        pytest.raises(BackendError, match="3 dead over one shard"),
        pytest.warns(UserWarning, match="a worker has died"),
        RayRecorder(Poison("fake").recorder, config, Cluster(address=cluster.address)) as recorder,
    ):
        recorder.record(todo, lambda rows: None)


def test_machines_with_other_models_do_not_record(cluster, sent_along):
    cluster_of_two = Cluster(address=cluster.address)
    with (
        pytest.raises(BackendError, match="copy the same directories"),
        RayRecorder(Poison("").recorder, RecordConfig(), cluster_of_two) as recorder,
    ):
        recorder.wait_for_all()


def test_a_cluster_that_is_not_there_or_too_small_is_said_to_be(cluster):
    nobody = Cluster(address="127.0.0.1:1")
    with pytest.raises(ConfigError, match="ray start --head"), connected(nobody):
        pass
    few = Cluster(address=cluster.address, gpus=1)
    with connected(few) as ray, pytest.raises(ConfigError, match="found 2 and 0"):
        few.num_workers(ray.cluster_resources())
    with connected(few) as ray:
        assert Cluster(cpus=0.5).num_workers(ray.cluster_resources()) == 4


def test_trainings_side_by_side_are_those_one_after_the_other(cluster, few, environment, tmp_path):
    """Although one loses its worker and goes on elsewhere, and the command itself is run again."""
    given = {"traces": few, "seeds": 2, "num_envs": 64, "steps": 64 * 16 * 20, "wandb": "disabled"}
    train = ["train", *(str(x) for k, v in given.items() for x in (f"--{k.replace('_', '-')}", v))]
    text = {name: str(value) for name, value in given.items()}
    train_all(resolve({**text, "out": str(tmp_path / "plain")}), Console(quiet=True))

    out = tmp_path / "ray"
    command = [sys.executable, "-m", "training.cli", *train, "--out", str(out)]
    command += ["--ray", cluster.address]
    first = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stderr=subprocess.DEVNULL,
        # A shell starts background jobs with SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    wait_for(lambda: list(out.glob("seed-*/training/state.json")), timeout_s=600)
    first.send_signal(signal.SIGINT)
    assert first.wait(120) == 130

    driver = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: workers(cluster, "run_job"))
    workers(cluster, "run_job")[0].kill()
    _, errors = driver.communicate(timeout=600)
    assert driver.returncode == 0, errors
    for seed in ("seed-0", "seed-1"):
        plain, ray = (tmp_path / run / seed / "controller.safetensors" for run in ("plain", "ray"))
        assert plain.read_bytes() == ray.read_bytes()
    assert (out / "seeds.json").read_text() == (tmp_path / "plain/seeds.json").read_text()


def test_controllers_play_elsewhere_as_they_do_here(cluster, validation):
    checkpoints, prices = [load_checkpoint(CHECKPOINTS / "controller")] * 2, [1e-4, 1e-3]
    here = map_on(None, play_prices, checkpoints, validation.table, prices, 1)
    given = (checkpoints, validation.table, prices, 1)
    there = map_on(Cluster(address=cluster.address), play_prices, *given)
    for played, same in zip(np.ravel(here), np.ravel(there), strict=True):
        np.testing.assert_array_equal(played.right, same.right)
        np.testing.assert_array_equal(played.cost, same.cost)
