"""`allot report` of a controller inside attempts, in a real browser."""

import json
import re
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from axe_playwright_python.sync_playwright import Axe

from envs.traces.format import write_table
from tests.browser.conftest import HOSTILE

PHONE = {"viewport": {"width": 375, "height": 812}, "is_mobile": True, "has_touch": True}


@pytest.fixture(scope="module")
def inside(trees, redoing, allot, tmp_path_factory):
    """Run directory of a controller evaluated on trees whose segments say hostile things."""
    base = tmp_path_factory.mktemp("inside")
    path, run = base / "traces", base / "<img src=x onerror=hacked=7>"
    shutil.copytree(trees.path, path)
    shutil.copytree(redoing, run)
    rows = trees.segments.to_pylist()
    for i, row in enumerate(rows):
        row["text"] = f"{HOSTILE[i % len(HOSTILE)]} {row['text']}"
    write_table(path / "segments.parquet", pa.Table.from_pylist(rows, trees.segments.schema))
    allot("evaluate", run, "--traces", path, "--num-prices", 3, "--wandb", "disabled")
    return run


@pytest.fixture(scope="module")
def report(chromium, inside, allot, tmp_path_factory):
    out = tmp_path_factory.mktemp("html") / "report.html"
    allot("report", inside, "--out", out)
    return out


@pytest.fixture
def opened(open_report, inside):
    """The page at the episode with most segments redone, and that episode's row."""
    rows = pq.read_table(inside / "evaluation" / "decisions.parquet").to_pylist()
    row = max(rows, key=lambda row: [d["action"] for d in row["decisions"]].count("REVISE"))
    opened = open_report()
    page = opened.page
    prices = json.loads(page.locator("#data").text_content())["prices"]
    page.locator("#strip button").nth(prices.index(row["price"])).click()
    for option in page.locator("#question option").all():
        page.locator("#question").select_option(option.get_attribute("value"))
        if page.locator("#asked").text_content() == row["question"]:
            return opened, row
    raise AssertionError("not among the questions of the page")


def test_every_segment_is_shown_with_its_numbers(opened):
    page, row = opened[0].page, opened[1]
    assert "REVISE" in {decision["action"] for decision in row["decisions"]}
    current, panel = page.locator("#steps [aria-current=step]"), page.locator("#decision")
    current.focus()
    for i, decision in enumerate(row["decisions"]):
        assert current.inner_text().split() == [str(i + 1), decision["action"]]
        for action, probability in decision["probabilities"].items():
            assert f"{action}\n{probability:.1%}" in panel.inner_text()
        assert f"{decision['cost']:,.0f} small-model tokens" in panel.inner_text()
        facts = panel.locator(".facts").inner_text()
        assert "answer if it stops" in facts
        assert (decision["leader"] or "none yet") in facts
        for segment in decision["attempts"]:
            assert panel.locator("pre").text_content() == segment["text"]
            (least,) = re.findall(r"least log-probability (−?[\d.]+)", panel.inner_text())
            assert float(least.replace("−", "-")) == pytest.approx(segment["min_logprob"], abs=6e-4)
        page.keyboard.press("ArrowRight")
    assert "The answer, forced" in panel.inner_text()


def test_hostile_segments_are_inert_and_nothing_is_loaded(opened, report):
    opened, page = opened[0], opened[0].page
    for figure in page.locator("div.plot, #curves").all():
        figure.scroll_into_view_if_needed()
    page.wait_for_selector("#curves .main-svg", state="attached")
    for button in page.locator("#steps button").all():
        button.click()
    assert page.evaluate("typeof hacked") == "undefined"
    assert page.locator("img, iframe, svg[onload], body a:not(.skip)").count() == 0
    assert [request.url for request in opened.requests] == [report.as_uri()]
    assert opened.complaints == []


def test_accessible_and_no_wider_than_a_phone(opened, open_report):
    page = opened[0].page
    page.locator("#steps button").last.click()
    options = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}
    violations = Axe().run(page, options=options).response["violations"]
    assert [(v["id"], [node["html"] for node in v["nodes"]]) for v in violations] == []
    phone = open_report(**PHONE).page
    phone.locator("#steps button").last.click()
    assert phone.evaluate("document.documentElement.scrollWidth") == 375
