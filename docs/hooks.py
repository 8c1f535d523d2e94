"""Pages that follow from the repository: command line, observations, list of decisions."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from typer import Context
from typer.cli import get_docs_for_click
from typer.core import MARKUP_MODE_KEY
from typer.main import get_command

from controller.card import markdown_table
from controller.granularity import GRANULARITIES, Granularity
from training.cli.app import app

_OBSERVATION = """A vector of float32, its entries in this order. Each is the number in its unit,
scaled as said. Nothing is computed from a reference. Signals that are unknown read 0, and so does
the flag that says whether they are known. Features of a group are left out together in
[ablations](../ABLATION.md).

Of a menu there are further features of each arm. Where 1,000 questions or more were learnt from,
two of each of up to eight plans follow, rules that could be followed from the first attempt to the
answer: its worth, the chance that it ends right less price x what it costs, both read from the
wording, and how far that is behind the best of them
([decision 62](../decisions/0062-plans-are-read-from-wordings.md))."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put every decision record into the last section of the navigation."""
    records = sorted(Path(config.docs_dir, "decisions").glob("*.md"))
    (last,) = config.nav[-1].values()
    last.append({"Decisions": [f"decisions/{record.name}" for record in records]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Write the pages of the command line and of observations from what the program says."""
    program = get_command(app)
    context = Context(program, obj={MARKUP_MODE_KEY: app.rich_markup_mode})
    text = get_docs_for_click(obj=program, ctx=context, name="allot", title="Command line")
    for name, command in _commands(program):
        cut, whole = (html.escape(command.get_short_help_str(limit)) for limit in (45, 200))
        text = text.replace(f"* `{name}`: {cut}\n", f"* `{name}`: {whole}\n")
    files.append(File.generated(config, "reference/cli.md", content=text))
    pages = "\n\n".join(map(_observation, GRANULARITIES.values()))
    text = f"# What a policy sees\n\n{_OBSERVATION}\n\n{pages}\n"
    files.append(File.generated(config, "reference/observation.md", content=text))
    return files


def _observation(granularity: Granularity) -> str:
    table = granularity.table
    rows = (
        (str(i), f"`{f.name}`", f.meaning, f.unit, f.scale.text, f.group)
        for i, f in enumerate(table.features)
    )
    head = ("entry", "feature", "what it means", "unit", "scale", "group")
    title = f"## Of {granularity.unit}\n\nVersion {table.version}, {len(table)} features."
    return f"{title}\n\n{markdown_table(head, rows)}"


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
