"""What the README shows works as it stands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from training.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("program", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_programs_run(program):
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


def test_commands_and_options_exist():
    lines = [line for line in README.splitlines() if re.match(r"\| `allot |    allot ", line)]
    assert len(lines) > 5
    for line in lines:
        words = re.sub(r"[|`].*", "", line.lstrip("| `")).removeprefix("allot ").split()
        command = get_command(app).commands[words[0]]
        while hasattr(command, "commands"):
            words = words[1:]
            command = command.commands[words[0]]
        options = {name for parameter in command.params for name in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options


def test_linked_files_exist():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target
