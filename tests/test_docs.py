"""Every command and every program in the documentation works as it stands."""

import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from typer import Typer
from typer.main import get_command

import benchmarks.__main__
from recipes import (
    ablation,
    contexts,
    crossvalidate,
    depth,
    drop,
    drop_record,
    learning_curve,
    limits,
    live,
    models,
    preparing,
    prompts,
    trade_offs,
    trees,
)
from tests.conftest import REAL, needs_real_model
from tests.hub_server import hub
from training.cli.app import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"<!-- before\n(?P<before>.*?)-->"
    r"|^```(?P<language>\w+)(?P<options>[^\n]*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
SHELL = ("bash", "-euo", "pipefail", "-c")
PROGRAMS = {"before": SHELL, "bash": SHELL, "python": (sys.executable, "-c")}


@dataclass(frozen=True)
class Block:
    """A fenced block, or a comment with what a page needs beforehand."""

    language: str
    text: str
    title: str | None


def blocks(page):
    found = []
    for match in BLOCK.finditer(page.read_text()):
        title = re.search(r'title="([^"]+)"', match["options"] or "")
        text = match["before"] or match["text"]
        found.append(Block(match["language"] or "before", text, title and title[1]))
    return found


def name(page):
    return str(page.relative_to(ROOT))


FETCHED = re.compile(r"Qwen/[\w.-]+B-Instruct(?!-GGUF)")

PATIENCE_S = 1200 if REAL else 300
"""For one block."""

FEWER = {"--limit": 6, "--samples": 2, "--max-new-tokens": 24}
"""Of what real models take hours for."""

SHORTER = {"--steps": 4096, "--seeds": 2}
"""Of trainings: that a command works shows in its first minute."""


def shortened(text, numbers):
    """A command with smaller numbers behind some options."""
    for option, number in numbers.items():
        text = re.sub(rf"{option} \d+", f"{option} {number}", text)
    return text


def with_real_models(text):
    """A command with the smallest and largest model at hand, and with little for them to do."""
    names = sorted(set(FETCHED.findall(text)))
    for name, file in zip(names, (REAL[0], REAL[-1]), strict=False):
        text = text.replace(name, file)
    return shortened(text, FEWER)


RUNNABLE = [page for page in PAGES if any(block.language in PROGRAMS for block in blocks(page))]


@pytest.fixture
def run(clone, tmp_path):
    """Runs a block as its reader would; what it left running ends with the test."""
    groups = []
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    with hub() as server:
        environment = {
            **os.environ,
            **server.environment(tmp_path / "home"),
            "PATH": f"{sys.prefix}/bin{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(clone),
            "WANDB_MODE": "disabled",
        }

        def call(block):
            text, log = block.text.replace("8080", port), tmp_path / "log"
            with log.open("w") as output:
                process = subprocess.Popen(
                    [*PROGRAMS[block.language], text],
                    cwd=clone,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
                groups.append(process.pid)
                assert process.wait(timeout=PATIENCE_S) == 0, f"{block.text}\n{log.read_text()}"

        yield call
        for group in groups:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)


@pytest.mark.parametrize("page", RUNNABLE, ids=name)
def test_page_can_be_followed_from_top_to_bottom(page, clone, run):
    real = any(FETCHED.search(b.text) for b in blocks(page) if b.language in PROGRAMS)
    if real and not REAL:
        pytest.skip(needs_real_model.kwargs["reason"])
    for block in blocks(page):
        if block.title:
            (clone / block.title).write_text(block.text)
        elif block.language in PROGRAMS:
            text = shortened(block.text, SHORTER)
            run(replace(block, text=with_real_models(text) if real else text))


def only(function):
    program = Typer()
    program.command()(function)
    return get_command(program)


COMMANDS = {
    "allot": get_command(app),
    "python -m benchmarks": only(benchmarks.__main__.main),
    "python -m recipes.ablation": only(ablation.main),
    "python -m recipes.contexts": only(contexts.main),
    "python -m recipes.crossvalidate": only(crossvalidate.main),
    "python -m recipes.depth": only(depth.main),
    "python -m recipes.drop": only(drop.main),
    "python -m recipes.drop_record": only(drop_record.main),
    "python -m recipes.learning_curve": only(learning_curve.main),
    "python -m recipes.limits": only(limits.main),
    "python -m recipes.live": only(live.main),
    "python -m recipes.models": get_command(models.app),
    "python -m recipes.preparing": only(preparing.main),
    "python -m recipes.prompts": only(prompts.main),
    "python -m recipes.trade_offs": only(trade_offs.main),
    "python -m recipes.trees": get_command(trees.app),
}
FORM = r"(allot|python -m (?:benchmarks|recipes\.\w+))( [^`\n]+)?"


def forms(page):
    """Commands with placeholders: indented lines, rows of tables, and those within a sentence."""
    text = BLOCK.sub("", page.read_text())
    return [*re.findall(rf"(?m)^    {FORM}$", text), *re.findall(rf"`{FORM}`", text)]


@pytest.mark.parametrize("page", [page for page in PAGES if forms(page)], ids=name)
def test_commands_and_options_exist(page):
    for program, form in forms(page):
        words = form.split("#")[0].split()
        command, path = COMMANDS[program], []
        while hasattr(command, "commands"):
            if not words:
                break
            path.append(words.pop(0))
            assert path[-1] in command.commands, form
            command = command.commands[path[-1]]
        options = {"--help", *(name for parameter in command.params for name in parameter.opts)}
        assert {re.sub("=.*", "", word) for word in words if word.startswith("--")} <= options, form


def commands(group, prefix=()):
    for title, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*prefix, title))
        else:
            yield (*prefix, title), command


def test_readme_has_a_row_for_every_command():
    listed = set()
    for row in re.findall(r"(?m)^\| (`allot .+?) \|", (ROOT / "README.md").read_text()):
        first, *others = re.findall(r"`([^`]+)`", row)
        words = [word for word in first.split()[1:] if word.islower() and word.isalpha()]
        listed |= {tuple(words), *((words[0], other) for other in others)}
    assert listed == {path for path, _ in commands(get_command(app))}


def test_help_explains_every_command_and_option():
    for path, command in commands(get_command(app)):
        assert command.help, path
        for parameter in command.params:
            assert parameter.help, f"{' '.join(path)}: {parameter.name}"


def test_linked_files_exist():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)]+)\)", BLOCK.sub("", page.read_text())):
            path = target.split("#")[0]
            generated = path.endswith("reference/cli.md")
            known = not path or path.startswith("https://") or generated
            assert known or (page.parent / path).exists(), f"{name(page)}: {target}"


def test_site_builds_without_a_warning(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    pages = {page.relative_to(tmp_path).as_posix() for page in tmp_path.rglob("*.html")}
    assert {
        "index.html",
        "tutorial.html",
        "reference/cli.html",
        "reference/controller.html",
    } <= pages
    assert "Controller" in (tmp_path / "reference" / "controller.html").read_text()
    for page in tmp_path.rglob("*.html"):
        loaded = re.findall(r'(?:src|rel="stylesheet" href)="(https?:[^"]+)"', page.read_text())
        assert not loaded, f"{page}: expected nothing from other servers, found {loaded}"
