"""A real browser, and a report of real runs over traces full of hostile text."""

import json
import os
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pytest
from playwright.sync_api import Browser, Page, Request, sync_playwright

from controller.checkpoint import load_checkpoint, save_checkpoint
from envs.traces.format import TraceSet, write_table
from tests.training.conftest import allot, environment, thinned

__all__ = ["allot", "environment"]

REQUIRED = "ALLOT_REQUIRE_BROWSER"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 120_000

HOSTILE = (
    "</script><script>hacked = 1</script>",
    "<img src=x onerror='hacked = 2'>",
    "<!--<script>",
    "\u202egnp.exe\u2028',alert(1)//{{7*7}}${hacked=3}",
    '"><svg onload=alert(4)><a href="javascript:hacked=4">click</a>',
    "W" * 3000,
)
LARGE = 'large"><img src=http://192.0.2.1/x onerror=hacked=5>'


@pytest.fixture(scope="module")
def chromium():
    """Ends with its module: Playwright leaves an event loop running, which bars others' own."""
    path = shutil.which("chromium")
    if path is None:
        reason = "no `chromium` on the PATH (Debian: apt-get install chromium)"
        if os.environ.get(REQUIRED):
            pytest.fail(f"{REQUIRED} is set, but there is {reason}")
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=ARGUMENTS, timeout=PATIENCE_MS
        )
        yield browser
        browser.close()


def hostile_traces(traces: TraceSet, path: Path) -> Path:
    """150 bundled questions whose every text is hostile."""
    few = TraceSet.read(thinned(traces, path.parent / "few", every=30, without=["prompt_hidden"]))
    questions, attempts = few.questions.to_pylist(), few.attempts.to_pylist()
    for i, row in enumerate(questions):
        row["question"] = f"{HOSTILE[i % len(HOSTILE)]} {row['question']}"
        row["dataset"] = HOSTILE[i % 2]
        row["reference"] = f"{row['reference']} {HOSTILE[i % 5]}"
    for i, row in enumerate(attempts):
        row["text"] = f"{row['text']} {HOSTILE[i % len(HOSTILE)]}"
        if not row["correct"]:
            row["answer"] = HOSTILE[i % 5]
        if row["model"] == "large":
            row["model"] = LARGE
    manifest = json.loads((traces.path / "trace.json").read_text())
    manifest["models"][LARGE] = manifest["models"].pop("large")
    path.mkdir(parents=True)
    write_table(path / "questions.parquet", pa.Table.from_pylist(questions))
    write_table(path / "attempts.parquet", pa.Table.from_pylist(attempts, traces.attempts.schema))
    (path / "trace.json").write_text(json.dumps(manifest))
    return path


@pytest.fixture(scope="session")
def runs(traces, allot, tmp_path_factory) -> list[Path]:
    """Two evaluated runs; even their names are hostile. The second one only samples."""
    base = tmp_path_factory.mktemp("report")
    path = hostile_traces(traces, base / "<b onclick=hacked=6>traces")
    first, second = base / "<img src=x onerror=hacked=7>", base / "second & <i>last"
    options = ("--traces", path, "--wandb", "disabled")
    allot("train", "--out", first, "--steps", 32768, "--num-envs", 256, *options)
    shutil.copytree(first, second)
    checkpoint = load_checkpoint(second)
    checkpoint.policy.actor[-1].bias.data[1] += 9
    save_checkpoint(replace(checkpoint, floor=None), second)
    for run in (first, second):
        allot("evaluate", run, "--repeats", 2, "--num-prices", 5, *options)
    return [first, second]


@pytest.fixture(scope="module")
def report(chromium, runs, allot, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("html") / "report.html"
    allot("report", *runs, "--out", out, "--questions", 24)
    return out


@dataclass
class Opened:
    """A page and what the browser had to say about it."""

    page: Page
    requests: list[Request] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@pytest.fixture
def open_report(chromium: Browser, report: Path):
    """Opens the report from its file, with options of a browser context."""
    contexts = []

    def open_(**options) -> Opened:
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        opened = Opened(context.new_page())
        page = opened.page
        page.on("request", lambda request: opened.requests.append(request))
        page.on("console", lambda message: opened.complaints.append(message.text))
        page.on("pageerror", lambda error: opened.complaints.append(str(error)))
        page.on("dialog", lambda dialog: opened.complaints.append(dialog.message))
        page.goto(report.as_uri())
        page.locator("#frontier").scroll_into_view_if_needed()
        page.wait_for_selector("#frontier .main-svg", state="attached")
        return opened

    yield open_
    for context in contexts:
        context.close()
