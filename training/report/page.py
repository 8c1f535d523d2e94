"""The page itself: template, style and program in one file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from envs.traces.format import write_atomically
from training.report.runs import read_runs, report_data

_PROGRAM = ("dom.js", "figures.js", "table.js", "segments.js", "explorer.js", "main.js")


def write_report(runs: Sequence[Path], out: Path, num_questions: int) -> None:
    """Compare evaluated runs, the most interesting one first, on one page that needs nothing else.

    Raises:
        EvaluationError: see `read_runs`.
    """
    page = render(report_data(read_runs(runs), num_questions))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, lambda path: path.write_text(page, encoding="utf-8"))


def render(data: dict[str, Any]) -> str:
    """HTML of what `report_data` returns.

    Questions, attempts and names are not to be trusted. They reach the page as JSON without
    `<`, `>` and `&`, or escaped by Jinja; the program only ever makes text nodes of them. The
    page's policy lets the browser run the two scripts of these digests and nothing else, and
    load nothing.
    """
    program = "\n".join(["(() => {", "'use strict';", *map(_read, _PROGRAM), "})();"])
    plotly = get_plotlyjs()
    environment = Environment(
        loader=PackageLoader("training.report", ""), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["share"] = lambda value: "?" if value is None else f"{value:.0%}"
    return environment.get_template("page.html").render(
        policy=_policy(program, plotly),
        style=Markup(_read("page.css")),
        program=Markup(program),
        plotly=Markup(plotly),
        data=htmlsafe_json_dumps(data, allow_nan=False, separators=(",", ":")),
        names=[run["name"] for run in data["runs"]],
        runs=data["runs"],
        about=data["runs"][0]["about"],
        num_questions=data["num_questions"],
        num_prices=len(data["prices"]),
        num_episodes=len(data["questions"]),
        version=version("allot"),
    )


def _read(name: str) -> str:
    return files("training.report").joinpath(name).read_text(encoding="utf-8")


def _policy(*scripts: str) -> str:
    """Content security policy that allows these scripts, inline styles and data images."""
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    allowed = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
