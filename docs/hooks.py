"""Pages that follow from the repository: the command line's, and the list of decisions."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from typer.main import get_command

from training.cli import app

DOCUMENT = [sys.executable, "-m", "typer", "training.cli", "utils", "docs", "--name", "allot"]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put every decision record into the last section of the navigation."""
    records = sorted(Path(config.docs_dir, "decisions").glob("*.md"))
    (last,) = config.nav[-1].values()
    last.append({"Decisions": [f"decisions/{record.name}" for record in records]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Write the page of the command line from what the program says of itself."""
    done = subprocess.run(DOCUMENT, capture_output=True, text=True, check=True)
    text = done.stdout.replace("# `allot`", "# Command line", 1)
    for name, command in _commands(get_command(app)):
        cut, whole = (html.escape(command.get_short_help_str(limit)) for limit in (45, 200))
        text = text.replace(f"* `{name}`: {cut}\n", f"* `{name}`: {whole}\n")
    files.append(File.generated(config, "reference/cli.md", content=text))
    return files


def _commands(group: Any) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        yield name, command
        if hasattr(command, "commands"):
            yield from _commands(command)


class Doctests(griffe.Extension):
    """Shows doctests as code, wherever they stand in a docstring."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Fence each run of lines that begins with a prompt."""
        if obj.docstring:
            fenced = re.sub(r"(?m)^(>>> .*(?:\n.+)*)", r"```pycon\n\1\n```", obj.docstring.value)
            obj.docstring.value = fenced
