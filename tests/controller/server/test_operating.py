"""`allot serve` as operators run it: a process, its log, signals and checkpoints."""

import asyncio
import json
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx2
import openai
import pytest
import torch
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from controller.backends.ladder import Ladder
from controller.checkpoint import load_checkpoint, save_checkpoint
from controller.errors import ConfigError
from controller.loading import deployed_process
from controller.server.config import ServeConfig
from controller.server.keys import Keys, key_digest
from controller.server.logs import _WholeLines
from controller.server.run import _address, _listen, _Server, allow_files, http_server, run_service
from envs.traces.format import TraceSet, model_spec
from envs.traces.importing import import_attempts
from envs.traces.logs import ImportOptions
from envs.traces.readers import read_references
from envs.traces.table import build_table
from tests.controller.server.conftest import CONTROLLER, PROMPT_LENGTH, QUESTION, ladder
from tests.controller.server.upstream import completion, script


def copied_controller(directory):
    """A checkpoint that names no models, so that none is loaded."""
    checkpoint = load_checkpoint(CONTROLLER)
    models = tuple(replace(model, prompt_length=PROMPT_LENGTH) for model in checkpoint.models)
    checkpoint = replace(checkpoint, models=models, model_paths=(), adapter_paths={})
    save_checkpoint(checkpoint, directory, "card")
    return directory


class Process:
    """A service in a process of its own."""

    def __init__(self, process):
        self.process, self.lines = process, []
        threading.Thread(target=self._read, daemon=True).start()
        self.port = self.wait_for("listening")["port"]
        self.http = httpx2.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60)

    def _read(self):
        for line in self.process.stderr:
            self.lines.append(line)

    def wait_for(self, event, within_s=300):
        end = time.monotonic() + within_s
        while time.monotonic() < end and self.process.poll() is None:
            for line in list(self.lines):
                if line.startswith("{") and json.loads(line)["event"] == event:
                    return json.loads(line)
            time.sleep(0.02)
        raise AssertionError(f"no {event}: {''.join(self.lines)}")

    def ask(self, text, headers=None, **allot):
        return self.http.post(
            "/v1/chat/completions",
            headers=headers,
            json={
                "model": "allot",
                "messages": [{"role": "user", "content": text}],
                "allot": {"price": 1e-4, **allot},
            },
        )


@contextmanager
def serving(controller, *upstreams, names=("small", "large"), options=(), begun=None):
    command = [sys.executable, "-m", "training.cli", "serve", "--controller", str(controller)]
    for option, upstream, name in zip(("--small", "--large"), upstreams, names, strict=False):
        command += [option, f"{upstream.url}#{name}"]
    command += ["--port", "0", *map(str, options)]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "ALLOT_UPSTREAM_KEY_0": "sk-small-secret",
        "ALLOT_UPSTREAM_KEY_1": "sk-large-secret",
    }
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        if begun:
            begun(process)
        yield Process(process)
    finally:
        process.kill()
        process.wait()


def test_a_process_from_start_to_end(tmp_path, small, large):
    """Log, reload, a request that outlives the signal, and the log as traces."""
    controller, log = (
        copied_controller(tmp_path / "controller"),
        tmp_path / "log" / "episodes.jsonl",
    )
    small.script(*(completion(f"Answer: {n % 3}") for n in range(400)))
    large.script(completion("Answer: 2", model="large"))
    options = ["--log", log, "--log-texts", "--watch-s", "0.1", "--exploration", "0.2"]
    with serving(controller, small, large, options=options) as service:
        for n in range(12):
            asked = QUESTION.replace("44", str(44 + n))
            assert service.ask(asked, question_id=f"id {n}").status_code == 200
        _answer_without_a_log(service, log)
        before = service.http.get("/v1/models").json()["data"][0]["allot"]["arms"][0]["policy"]
        _reload(controller, service)
        after = service.http.get("/v1/models").json()["data"][0]["allot"]["arms"][0]["policy"]
        assert before != after
        _refuse_broken(controller, service, after)
        _finish_what_was_begun(service, small)
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(rows) == 14
    assert {row["policy"] for row in rows} == {before, after}
    decisions = [d for row in rows for d in row["decisions"]]
    assert all(0 < d["propensity"] <= 1 for d in decisions)
    assert len({d["propensity"] for d in decisions}) > 2
    seen = load_checkpoint(CONTROLLER).policy.config.num_features
    assert all(len(d["observation"]) == seen for d in decisions)
    assert "secret" not in log.read_text() + "".join(service.lines)
    _import(tmp_path, log, rows)


def _reload(controller, service):
    checkpoint = load_checkpoint(controller)
    with torch.no_grad():
        for parameter in checkpoint.policy.parameters():
            parameter.mul_(0.99)
    save_checkpoint(checkpoint, controller, "card")
    service.wait_for("reloaded")


def _refuse_broken(controller, service, policy):
    (controller / "controller.json").write_text("{}")
    service.wait_for("reload_refused")
    arms = service.http.get("/v1/models").json()["data"][0]["allot"]["arms"]
    assert arms[0]["policy"] == policy
    (warning,) = service.http.get("/ready").json()["warnings"]
    assert warning.startswith("reload of policies refused: ")


def test_what_is_on_disk_may_change_in_any_way(tmp_path, small, large):
    """Keys that are taken away stop working; what cannot be read is refused, and nothing ends."""
    controller, keys = copied_controller(tmp_path / "controller"), tmp_path / "keys"
    keys.write_text(f"ann {key_digest('k1')}\nbob {key_digest('k2')}\n")
    options = ["--watch-s", "0.1", "--keys", keys]
    settings = controller / "controller.json"
    with serving(controller, small, large, options=options) as service:

        def status(key):
            headers = {"authorization": f"Bearer {key}"}
            return service.http.get("/v1/models", headers=headers).status_code

        def after(event, change):
            before = sum(f'"{event}"' in line for line in service.lines)
            change()
            end = time.monotonic() + 20
            while sum(f'"{event}"' in line for line in service.lines) == before:
                assert time.monotonic() < end, event
                time.sleep(0.05)

        assert (status("k1"), status("k2")) == (200, 200)
        after("reloaded", lambda: keys.write_text(f"bob {key_digest('k2')}\n"))
        assert (status("k1"), status("k2")) == (401, 200)
        after("reload_refused", keys.unlink)
        assert (status("k1"), status("k2")) == (401, 200)
        good = settings.read_text()
        strange = json.loads(good) | {"price_range": ["a", "b"]}
        after("reload_refused", lambda: settings.write_text(json.dumps(strange)))
        other = json.loads(good)
        other["models"][0]["prompt"] = [{"role": "user", "content": "Briefly: {question}"}]
        after("reload_refused", lambda: settings.write_text(json.dumps(other)))
        told = service.http.get("/ready").json()["warnings"]
        assert any("Briefly" in warning and "restart" in warning for warning in told)
        settings.unlink()
        after("reload_refused", settings.mkdir)
        settings.rmdir()
        after("reloaded", lambda: settings.write_text(good))
        keys.write_text(f"ann {key_digest('k1')}\n")
        after("reloaded", lambda: service.process.send_signal(signal.SIGHUP))
        assert (status("k1"), status("k2")) == (200, 401)
        assert service.http.get("/live").status_code == 200
        _say_status(service)
        _tell_of_a_model_that_is_away(service, small, "k1")


def _tell_of_a_model_that_is_away(service, small, key):
    small.script(lambda exchange: exchange.reply({"error": {}}, status=401))
    for _ in range(5):
        reply = service.ask(QUESTION, headers={"authorization": f"Bearer {key}"}, price=1e-3)
        assert reply.json()["allot"]["unavailable"] == ["small"]
    told = service.wait_for("model_is_away")
    assert (told["model"], told["why"], told["level"]) == ("small", "unauthorized", "warning")


def _say_status(service):
    """`allot status` says what each model's last check found."""
    command = [sys.executable, "-m", "training.cli", "status", str(service.http.base_url)]
    for _ in range(20):
        said = subprocess.run(command, capture_output=True, text=True)
        if "not checked yet" not in said.stdout:
            break
    assert (said.returncode, said.stdout.splitlines()[0]) == (0, "ready"), said
    assert "  small: ok" in said.stdout.splitlines()


def _finish_what_was_begun(service, small):
    """SIGTERM while a model is thinking: the answer comes, then the process ends."""
    release = threading.Event()

    async def wait(exchange):
        while not release.is_set():
            await asyncio.sleep(0.01)
        await exchange.reply(completion())

    small.script(wait)
    replies = []
    client = threading.Thread(target=lambda: replies.append(service.ask("last", price=1e-3)))
    client.start()
    while not small.open:
        time.sleep(0.01)
    service.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert service.process.poll() is None
    release.set()
    client.join()
    assert replies[0].status_code == 200
    assert service.process.wait(timeout=20) == 0


def _reload_once_it_can_wait(process):
    while not 1 & int(Path(f"/proc/{process.pid}/status").read_text().split("SigBlk:")[1][:17], 16):
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGHUP)


@pytest.mark.skipif(sys.platform != "linux", reason="tells what a process waits with in /proc")
def test_signals_at_the_beginning_and_at_the_end(tmp_path, small, large, monkeypatch):
    """A reload waits until there is something to read; who gets no answer is told so."""

    async def never(exchange):
        await asyncio.sleep(60)

    script((small, large), never)
    monkeypatch.setenv("ALLOT_UPSTREAM_KEY_7", "sk-secret")
    controller, told = copied_controller(tmp_path / "controller"), {}
    options = ["--shutdown-s", "0"]
    with serving(
        controller, small, large, options=options, begun=_reload_once_it_can_wait
    ) as service:
        service.wait_for("reloaded")
        unused = service.wait_for("key_of_no_server")
        assert unused["found"] == "ALLOT_UPSTREAM_KEY_7"
        client = openai.OpenAI(
            base_url=f"http://127.0.0.1:{service.port}/v1", api_key="any", max_retries=0
        )
        turns = [{"role": "user", "content": QUESTION}]

        def ask(stream):
            try:
                list(client.chat.completions.create(model="allot", messages=turns, stream=stream))
            except openai.APIError as error:
                told[stream] = error

        clients = [threading.Thread(target=ask, args=(stream,)) for stream in (False, True)]
        for client_of in clients:
            client_of.start()
        while small.open < 2:
            time.sleep(0.01)
        service.process.send_signal(signal.SIGTERM)
        for client_of in clients:
            client_of.join()
        assert service.process.wait(timeout=20) == 0
        ended = [json.loads(line) for line in service.lines if '"event":"episode"' in line]
    assert "secret" not in "".join(service.lines)
    assert [row["limited"] for row in ended] == [["cancelled"], ["cancelled"]]
    assert told[False].status_code == 503
    assert told[False].response.headers["retry-after"]
    assert all("the service is stopping" in told[stream].message for stream in (False, True))


def test_whoever_is_cut_off_is_told_before_the_loop_ends(service, monkeypatch):
    """So is one whose body is still arriving."""
    begun, told = threading.Event(), []

    async def slow_to_end(*asked, **terms):
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.3)

    monkeypatch.setattr(service.service.engine, "answer", slow_to_end)
    listener = _listen("127.0.0.1", 0)
    server = _Server(service.service, ServeConfig(shutdown_s=0), lambda url: None)
    serving = threading.Thread(target=asyncio.run, args=(server.serve([listener]),))
    serving.start()
    with socket.create_connection(listener.getsockname()) as connection:
        connection.sendall(
            b"POST /v1/decide HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 9\r\n\r\n{"
        )
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        other = openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)
        turns = [{"role": "user", "content": QUESTION}]

        def ask():
            with pytest.raises(openai.InternalServerError) as caught:
                other.chat.completions.create(model="allot", messages=turns)
            told.append(caught.value)

        client = threading.Thread(target=ask)
        client.start()
        assert begun.wait(20)
        server.should_exit = True
        client.join()
        half = b"".join(iter(lambda: connection.recv(4096), b""))
    serving.join()
    assert [error.status_code for error in told] == [503]
    assert half.startswith(b"HTTP/1.1 503 ")
    assert b"the service is stopping" in half


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"log": Path("/dev/null/episodes")}, "log: expected a file that can be written"),
        ({"log": Path("/")}, "log: expected a file that can be written"),
        ({"max_new_tokens": 0}, "max_new_tokens: expected at least 1, found 0"),
    ],
)
def test_a_log_that_cannot_be_written_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        run_service(ServeConfig(**settings))


def test_an_address_can_be_opened_and_what_is_none_is_named():
    class Six:
        def getsockname(self):
            return "::1", 8080, 0, 0

    assert _address(Six()) == "http://[::1]:8080/"
    with pytest.raises(ConfigError, match=r"host, port: .*192\.0\.2\.1"):
        _listen("192.0.2.1", 0)


@pytest.mark.parametrize(("wanted", "kept"), [(0, 0), (0.2, 1), (30.0, 30)])
def test_what_is_begun_has_no_less_time_than_was_said(service, wanted, kept):
    assert http_server(service.service, wanted).timeout_graceful_shutdown == kept


def _answer_without_a_log(service, log):
    """A directory that is gone is made anew; where that cannot be, answers go out all the same."""
    away = log.parent.rename(log.parent.with_name("away"))
    log.parent.touch()
    for _ in range(2):
        assert service.ask(QUESTION).status_code == 200
    assert "Not a directory" in service.wait_for("log_lost")["why"]
    assert "allot_log_lost_total 2.0" in service.http.get("/metrics").text
    log.parent.unlink()
    assert service.ask(QUESTION, question_id="id 12").status_code == 200
    assert service.wait_for("log_goes_on")["lost"] == 2
    kept = (away / log.name).read_text() + log.read_text()
    log.write_text(kept)
    assert sum('"log_lost"' in line for line in service.lines) == 1


def test_a_line_that_a_full_disk_cuts_short_stays_alone(tmp_path, monkeypatch):
    def cut(file, line):
        return whole(file, line[:5])

    whole, handler = os.write, _WholeLines(tmp_path / "log")
    monkeypatch.setattr(os, "write", cut)
    with pytest.raises(OSError, match="No space left"):
        handler.emit(logging.makeLogRecord({"msg": "abcdefgh"}))
    monkeypatch.setattr(os, "write", whole)
    handler.emit(logging.makeLogRecord({"msg": "next"}))
    handler.close()
    assert (tmp_path / "log").read_text() == "abcde\nnext\n"


def test_as_many_files_may_be_open_as_questions_in_flight_need():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        allow_files(300)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (300, before[1])
        allow_files(10)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (300, before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_of_two_interrupts_the_second_does_not_cut_the_draining_short(service):
    server = _Server(service.service, ServeConfig(drain_s=0.1), lambda url: None)

    async def interrupted():
        server.handle_exit(signal.SIGINT, None)
        server.handle_exit(signal.SIGINT, None)
        await asyncio.sleep(0.3)

    asyncio.run(interrupted())
    assert (server.should_exit, server.force_exit) == (True, False)


def _import(tmp_path, log, rows):
    references = tmp_path / "references.jsonl"
    known = [{"question_id": f"id {n}", "reference": "2"} for n in range(10)]
    references.write_text("\n".join(json.dumps(row) for row in known))
    options = ImportOptions(references=read_references(references))
    import_attempts([log], tmp_path / "traces", options=options)
    traces = TraceSet.read(tmp_path / "traces")
    ids = {row["question_id"] for row in known}
    made = [a for row in rows if row["question_id"] in ids for a in row["attempts"]]
    assert len(traces.attempts) == len(made)
    assert traces.default_ladder()[0] == "small"
    right = [a["answer"] == "2" for a in made]
    assert traces.attempts["correct"].to_pylist() == right
    smaller, larger = (model_spec(traces.manifest, name).parameters for name in ("small", "large"))
    assert smaller < larger
    tried = {row["question_id"] for row in rows if any(a["rung"] == 0 for a in row["attempts"])}
    table = build_table(traces, ["train", "validation", "test"], ["small"])
    assert set(table.question_ids) == {f"served/{name}" for name in tried & ids}


def test_key_files(tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"# ours\nann {key_digest('k1')}  # Ann\nbob {key_digest('k2')}\n")
    keys = Keys.read(path)
    assert [keys.caller(f"Bearer {k}") for k in ("k1", "k2", "k3", "")] == [
        "ann",
        "bob",
        None,
        None,
    ]
    for text in ("", "ann k1", f"ann {key_digest('k1')}\nann {key_digest('k2')}"):
        path.write_text(text)
        with pytest.raises(ConfigError, match="key"):
            Keys.read(path)


def test_what_the_models_cannot_do_falls_away(checkpoint, small, large):
    process = deployed_process(checkpoint, ladder(small, large))
    assert (process.max_revisions, process.reads_prompt) == (0, False)
    with pytest.raises(ConfigError, match="expected models on 2 rungs"):
        deployed_process(checkpoint, Ladder(ladder(small, large).rungs[:1]))


def test_spans(serve, small, large):
    """One span per answer, decisions as events on it, one client span per try."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    found = serve(small, large).ask(price=1e-3, headers={"traceparent": parent}).json()["allot"]
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert {"/v1/chat/completions", "answer", "chat small"} <= set(spans)
    assert len({span.context.trace_id for span in spans.values()}) == 1
    assert f"{spans['answer'].context.trace_id:032x}" in parent
    actions = [event.attributes["allot.action"] for event in spans["answer"].events]
    assert actions == [d["action"] for d in found["decisions"]]
