"""Ctrl-C in a real terminal: nothing is lost, and the end is the same to the bit."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest

SETTINGS = ("--num-envs", 64, "--steps", 64 * 16 * 20, "--wandb", "offline")
PROGRESS = re.compile(r"([\d,]+) of 20,480")


class Terminal:
    """A command in a terminal of its own, which sends Ctrl-C to all that runs in it."""

    def __init__(self, command, environment):
        self._screen, inside = pty.openpty()
        fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 140, 0, 0))
        self.process = subprocess.Popen(
            command,
            env={**environment, "TERM": "xterm-256color"},
            stdin=inside,
            stdout=inside,
            stderr=inside,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(inside, termios.TIOCSCTTY, 0),
        )
        os.close(inside)
        self.text = ""

    def read_until(self, done, timeout_s=300):
        end = time.monotonic() + timeout_s
        while not done():
            assert time.monotonic() < end, self.text
            if select.select([self._screen], [], [], 0.1)[0]:
                try:
                    self.text += os.read(self._screen, 65536).decode(errors="replace")
                except OSError:  # all that ran in it has ended
                    break
        self.text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.text)

    def steps(self):
        found = PROGRESS.findall(self.text)
        return int(found[-1].replace(",", "")) if found else 0

    def press_ctrl_c(self):
        os.write(self._screen, b"\x03")

    def close(self):
        self.read_until(lambda: False)
        os.close(self._screen)
        return self.process.wait(60)


def inspect(path):
    """Records of an offline run, by W&B's own reader."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def trained(few, allot, environment, tmp_path_factory):
    """One training left alone, and one stopped by Ctrl-C and by SIGTERM, with what was shown."""
    whole, halves = (tmp_path_factory.mktemp("runs") / name for name in ("whole", "halves"))
    allot("train", "--traces", few, "--out", whole, *SETTINGS)
    command = [sys.executable, "-m", "training.cli", "train", "--traces", few, "--out", halves]
    command = [str(part) for part in (*command, *SETTINGS)]

    terminal = Terminal(command, environment)
    terminal.read_until(lambda: terminal.steps() >= 3_000)
    terminal.press_ctrl_c()
    assert terminal.close() == 130, terminal.text

    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        log = []
        for line in process.stderr:  # W&B's own lines may come before the first of progress
            log.append(line)
            if PROGRESS.search(line):
                break
        process.send_signal(signal.SIGTERM)
        log += process.stderr.readlines()
    assert process.returncode == 130, log

    rest = allot("train", "--traces", few, "--out", halves, *SETTINGS)
    return whole, halves, terminal.text, log, rest.stderr.splitlines()


def first_steps(lines):
    """Steps that the first line of a plain log tells of."""
    return int(PROGRESS.search("\n".join(lines))[1].replace(",", ""))


def test_the_end_is_the_same_to_the_bit(trained):
    whole, halves, *_ = trained
    weights = [(run / "controller.safetensors").read_bytes() for run in (whole, halves)]
    assert weights[0] == weights[1]
    settings = [json.loads((run / "controller.json").read_text()) for run in (whole, halves)]
    for setting in settings:
        del setting["training"]["finished"]
    assert settings[0] == settings[1]


def test_each_call_goes_on_where_the_last_one_stopped(trained):
    *_, screen, log, rest = trained
    assert "goes on when its command is run again" in screen
    stopped = int(PROGRESS.findall(screen)[-1].replace(",", ""))
    assert 3_000 <= stopped < first_steps(log) < first_steps(rest)


def test_the_terminal_shows_the_state_of_the_training(trained):
    screen = " ".join(trained[2].split())
    assert re.search(r"of 20,480 steps \(\d+%\), [\d,]+ steps/s, [\d:]+ left", screen)
    assert re.search(
        r"utility: validation [\d.]+, best rule in hindsight [\d.]+ \([+-][\d.]+\)", screen
    )
    for action in ("STOP", "SAMPLE(4)", "ESCALATE"):
        assert re.search(rf"{re.escape(action)} \d+%", screen)


def test_without_a_terminal_there_is_a_line_per_check(trained):
    rest = [line for line in trained[4] if PROGRESS.search(line)]
    assert 5 < len(rest) < 20
    assert "\x1b" not in "".join(rest)
    assert "best rule in hindsight" in rest[0]
    assert "(100%)" in rest[-1]


def test_wandb_sees_one_run_with_each_step_once(trained):
    whole, halves, *_ = trained
    logs = [sorted((run / "wandb").glob("offline-run-*/run-*.wandb")) for run in (whole, halves)]
    assert [len(files) for files in logs] == [1, 3]
    records = [[r for file in files for r in inspect(file)] for files in logs]
    assert len({r["run"]["run_id"] for r in records[1] if r["type"] == "run"}) == 1
    assert [r["exit"].get("exit_code", 0) for r in records[1] if r["type"] == "exit"] == [1, 1, 0]
    steps = [
        [r["history"]["item"]["global_step"] for r in found if r["type"] == "history"]
        for found in records
    ]
    assert steps[0] == steps[1] == [1024 * update for update in range(1, 21)]


def test_a_second_signal_stops_at_once(environment):
    program = """
import os, signal, time
from training.learn.runs import asked_to_stop
with asked_to_stop() as stop:
    os.kill(os.getpid(), signal.SIGINT)
    print(stop(), flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=50)
    assert done.stdout == "True\n"
    assert "KeyboardInterrupt" in done.stderr
