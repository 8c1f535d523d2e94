"""Several processes behind one address: real ones, before upstreams on sockets."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx2
import pytest

from controller.errors import ConfigError
from controller.server.config import Limits, ServeConfig
from controller.server.keys import key_digest
from tests.controller.server.test_shared import free_port, needs_store, store
from tests.controller.server.upstream import completion, replying

COMMAND = [sys.executable, "-m", "training.cli", "serve"]


@contextmanager
def serving(small, large, log, *options, workers=2):
    """The service's process, its address, and what it says, once all workers listen."""
    places = ["--small", f"{small.url}#small", "--large", f"{large.url}#large"]
    port = free_port()
    told = log.with_suffix(".err")
    with told.open("w") as stderr:
        command = [*COMMAND, *places, "--port", str(port), "--workers", str(workers)]
        process = subprocess.Popen([*command, "--log", str(log), *options], stderr=stderr)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: told.read_text().count('"listening"') == workers, process)
        yield process, url, told
    finally:
        process.terminate()
        process.wait(30)


def wait_for(happens, process, seconds=90):
    started = time.monotonic()
    while not happens():
        assert process.poll() is None
        assert time.monotonic() - started < seconds
        time.sleep(0.05)


def ask(url, **allot):
    """Status of a question; None where the process that had taken it was killed."""
    asked = {"model": "allot", "messages": [{"role": "user", "content": "2+5="}], "allot": allot}
    try:
        return httpx2.post(f"{url}/v1/chat/completions", json=asked, timeout=30).status_code
    except httpx2.TransportError:
        return None


def workers_of(process):
    found = subprocess.run(
        ["pgrep", "-P", str(process.pid), "-f", "multiprocessing.spawn"],
        capture_output=True,
        text=True,
    )
    return [int(pid) for pid in found.stdout.split()]


def test_a_killed_worker_is_replaced_and_costs_what_it_had_in_hand(small, large, tmp_path):
    log = tmp_path / "log.jsonl"
    with serving(small, large, log) as (process, url, told):
        before = workers_of(process)
        assert len(before) == 2
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(ask, url) for _ in range(60)]
            os.kill(before[0], signal.SIGKILL)
            found = [one.result() for one in asked]
        assert set(found) <= {200, None}
        assert found.count(None) <= 8
        wait_for(lambda: told.read_text().count('"listening"') == 3, process)
        assert [ask(url) for _ in range(20)] == [200] * 20
        counted = re.findall(
            r'allot_requests_total\{path="/v1/chat/completions",status="200"\} (\S+)',
            httpx2.get(f"{url}/metrics").text,
        )
        assert sum(map(float, counted)) == found.count(200) + 20, (
            "of all workers, the dead included"
        )
        assert "allot_in_flight 0.0" in httpx2.get(f"{url}/metrics").text
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert found.count(200) + 20 <= len(rows) <= len(found) + 20
    assert (process.returncode, workers_of(process)) == (0, [])


@needs_store
def test_workers_spend_one_budget(small, large, tmp_path):
    small.script(replying(400))
    large.script(completion(model="large"))
    port = free_port()
    options = "--shared", f"redis://127.0.0.1:{port}", "--escalations-per-minute", "5"
    log = tmp_path / "log.jsonl"
    with (
        store(port),
        serving(small, large, log, *options) as (_, url, _),
        ThreadPoolExecutor(4) as pool,
    ):
        found = list(pool.map(lambda _: ask(url), range(24)))
    # What both have under way at the limit may go out, and a minute refills five.
    assert 5 <= found.count(200) <= 5 + 4 + 2


def test_what_cannot_be_read_keeps_a_worker_from_being_replaced_and_no_more(small, large, tmp_path):
    """The other one serves on, and a new one comes once the file is mended; SIGTERM ends all."""
    keys = tmp_path / "keys"
    good = f"ann {key_digest('k1')}\n"
    keys.write_text(good)
    options = "--keys", str(keys), "--watch-s", "0"
    with serving(small, large, tmp_path / "log.jsonl", *options) as (process, url, told):
        keys.write_text("bob zzz\n")
        os.kill(workers_of(process)[0], signal.SIGKILL)
        wait_for(lambda: '"not_started"' in told.read_text(), process)
        assert httpx2.get(f"{url}/live").status_code == 200
        keys.write_text(good)
        wait_for(lambda: told.read_text().count('"listening"') == 3, process)
        os.kill(workers_of(process)[0], signal.SIGKILL)
        wait_for(lambda: told.read_text().count('"worker_died"') == 3, process)
        process.terminate()  # while another is about to be begun
        assert process.wait(30) == 0
        assert workers_of(process) == []
        with pytest.raises(httpx2.TransportError):
            httpx2.get(f"{url}/live")


def test_workers_end_with_their_parent(small, large, tmp_path):
    with serving(small, large, tmp_path / "log.jsonl") as (process, _, _):
        workers = workers_of(process)
        process.kill()
    assert len(workers) == 2
    deadline = time.monotonic() + 20
    while any(os.path.exists(f"/proc/{pid}") for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_ctrl_c_while_workers_begin_ends_all_without_a_traceback(small, large, tmp_path):
    places = ["--small", f"{small.url}#small", "--large", f"{large.url}#large"]
    command = [*COMMAND, *places, "--port", str(free_port()), "--workers", "2"]
    told = tmp_path / "err"
    with told.open("w") as stderr:
        process = subprocess.Popen(command, stderr=stderr, start_new_session=True)
        wait_for(lambda: len(workers_of(process)) == 2, process)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(30) == 0, told.read_text()
    assert [json.loads(line)["event"] for line in told.read_text().splitlines()] == ["stopped"]


def test_limits_that_all_workers_keep_need_a_store():
    limits = Limits(escalations_per_minute=5)
    ServeConfig(limits=limits)
    with pytest.raises(ConfigError, match="workers: expected 1, or more and --shared"):
        ServeConfig(limits=limits, workers=2)
    with pytest.raises(ConfigError, match="workers"):
        ServeConfig(workers=0)
