"""`allot report` in a real browser, from a file."""

import json

import pyarrow.parquet as pq
import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.browser.conftest import HOSTILE, LARGE

PHONE = {"viewport": {"width": 375, "height": 812}, "is_mobile": True, "has_touch": True}


def look_at_everything(page):
    """Scroll until every figure has been drawn, and use every control once."""
    for figure in page.locator("div.plot, #curves").all():
        figure.scroll_into_view_if_needed()
    page.wait_for_selector("#curves .main-svg", state="attached")
    page.locator("#price").press("End")
    page.locator("#run").select_option(index=1)
    page.locator("#kinds input").last.click()
    page.locator("#next-question").click()
    page.locator("summary").click()


def utilities(page):
    cells = page.locator("#policies tbody tr td:nth-child(3)").all_inner_texts()
    return [float(cell.split()[0].replace("−", "-")) for cell in cells]


@pytest.fixture
def summary(runs):
    return json.loads((runs[0] / "evaluation" / "evaluation.json").read_text())["summary"]


def test_opens_from_a_file_without_a_network_or_a_complaint(open_report, report):
    opened = open_report()
    look_at_everything(opened.page)
    assert [request.url for request in opened.requests] == [report.as_uri()]
    assert opened.complaints == []


def test_a_sentence_says_how_each_run_stands(open_report, runs):
    verdicts = open_report().page.locator(".verdict").all_inner_texts()
    assert [text.split(":")[0] for text in verdicts] == [run.name for run in runs]
    assert all("Against the best of" in text for text in verdicts)


def test_table_holds_every_policy_by_utility(open_report, summary):
    page = open_report().page
    rows = page.locator("#policies tbody tr")
    assert rows.count() == len(summary["policies"]) + 1 + len(summary["oracles"])
    assert utilities(page) == sorted(utilities(page), reverse=True)
    oracles = page.locator("#policies tr.oracle")
    assert oracles.count() == len(summary["oracles"])
    assert all("oracle" in text for text in oracles.locator(".badge").all_inner_texts())


def test_slider_changes_table_figure_and_what_is_said(open_report, runs, summary):
    page = open_report().page
    slider, said = page.locator("#price"), page.locator("#price-said")
    seen = set()
    slider.press("Home")
    for row in summary["policies"]["controller"]:
        ours = page.locator("#policies tr.controller", has_text=runs[0].name)
        assert f"{row['utility']:.3f}".replace("-", "−") in ours.inner_text()
        assert utilities(page) == sorted(utilities(page), reverse=True)
        assert f"{row['accuracy']:.1%} right" in said.inner_text()
        page.wait_for_function(
            """cost => {
                const { x } = document.getElementById("frontier").data.at(-2);
                return cost ? Math.abs(x[0] / cost - 1) < 1e-3 : x.length === 0;
            }""",
            arg=row["cost"],
        )
        seen.add((said.inner_text(), slider.get_attribute("aria-valuetext")))
        assert page.evaluate("document.activeElement.id") == "price"
        slider.press("ArrowRight")
    assert len(seen) == len(summary["prices"])


def test_episodes_are_stepped_through_by_keyboard(open_report, runs):
    page = open_report().page
    page.locator("#question").select_option(index=0)
    rows = pq.read_table(runs[0] / "evaluation" / "decisions.parquet").to_pylist()
    page.locator("#next-question").focus()
    for _ in range(page.locator("#question option").count()):
        if page.locator("#steps button").count() > 2:
            break
        page.keyboard.press("Enter")
    text = page.locator("#asked").text_content()
    price = json.loads(page.locator("#data").text_content())["prices"][2]
    (row,) = [row for row in rows if row["question"] == text and row["price"] == price]
    decisions = row["decisions"]

    current = page.locator("#steps [aria-current=step]")
    current.focus()
    for i, decision in enumerate(decisions):
        assert current.inner_text().split() == [str(i + 1), decision["action"]]
        assert page.evaluate("document.activeElement.getAttribute('aria-current')") == "step"
        panel = page.locator("#decision")
        for action, probability in decision["probabilities"].items():
            assert f"{action}\n{probability:.1%}" in panel.inner_text()
        assert f"{decision['cost']:,.0f} small-model tokens" in panel.inner_text()
        assert panel.locator("pre").all_text_contents() == [
            attempt["text"] for attempt in decision["attempts"]
        ]
        shown = panel.locator(".features dd").all_text_contents()
        assert [float(value.replace("−", "-")) for value in shown] == pytest.approx(
            list(decision["observation"].values()), rel=1e-3, abs=1e-6
        )
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Home")
    assert current.inner_text().startswith("1")
    page.keyboard.press("End")
    assert current.inner_text().startswith(str(len(decisions)))


def test_a_price_chosen_beside_an_episode_keeps_the_focus(open_report):
    page = open_report().page
    page.locator("#strip button").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("#price").input_value() == "0"
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert page.locator("#price").input_value() == "1"
    assert page.locator("#strip [aria-pressed=true]").evaluate("b => b === document.activeElement")


def test_hostile_text_is_shown_and_inert(open_report, runs):
    opened = open_report()
    page = opened.page
    look_at_everything(page)
    assert page.title() == f"allot report: {runs[0].name}, {runs[1].name}"
    assert page.locator("h1").inner_text() == " · ".join(run.name for run in runs)
    assert LARGE in page.locator("header").inner_text()
    page.evaluate(
        """() => {
            const frontier = document.getElementById("frontier");
            const named = ({ hovertext }) => hovertext?.[0]?.includes("onerror");
            const curveNumber = frontier.data.findIndex(named);
            Plotly.Fx.hover(frontier, [{ curveNumber, pointNumber: 0 }]);
        }"""
    )
    assert runs[0].name in page.locator("#frontier .hoverlayer").text_content()
    asked = set()
    for option in page.locator("#question option").all():
        page.locator("#question").select_option(option.get_attribute("value"))
        asked.add(page.locator("#asked").text_content())
    for text in HOSTILE:
        assert any(question.startswith(text) for question in asked) or text in str(asked)
    assert page.evaluate("typeof hacked") == "undefined"
    assert page.locator("img, iframe, object, embed, body b, body i:not(.bar i)").count() == 0
    assert page.locator("script").count() == 3
    assert page.evaluate("document.querySelectorAll('a:not(.skip)').length") == 0
    assert opened.complaints == []


def test_the_browser_runs_and_loads_nothing_else(open_report):
    opened = open_report()
    opened.page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.hacked = 8";
            document.body.append(script);
            const image = document.createElement("img");
            image.src = "http://192.0.2.1/x.png";
            document.body.append(image);
        }"""
    )
    opened.page.wait_for_function("document.querySelector('img').complete")
    assert opened.page.evaluate("typeof hacked") == "undefined"
    assert [request.failure for request in opened.requests] == [None, "csp"]
    assert len(opened.complaints) == 2
    assert all("Content Security Policy" in complaint for complaint in opened.complaints)


def test_a_phone_needs_no_horizontal_scrolling(open_report):
    page = open_report(**PHONE).page
    look_at_everything(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    for control in page.locator("#price, #question, #previous-question, #steps button").all():
        box = control.bounding_box()
        assert box["x"] >= 0, control
        assert box["x"] + box["width"] <= 375, control
        assert box["height"] >= 24, control


def test_dark_mode_changes_page_and_figures(open_report):
    page = open_report(color_scheme="light").page
    ink = "getComputedStyle(document.body).color"
    paper = "getComputedStyle(document.body).backgroundColor"
    text = "document.getElementById('frontier').layout.font.color"
    light = [page.evaluate(value) for value in (ink, paper, text)]
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(
        "before => document.getElementById('frontier').layout.font.color !== before", arg=light[2]
    )
    dark = [page.evaluate(value) for value in (ink, paper, text)]
    assert all(a != b for a, b in zip(light, dark, strict=True))


def test_runs_are_compared(open_report, runs, summary):
    page = open_report().page
    assert page.locator("#policies tr.controller").count() == 2
    rivals = page.locator("#policies tr.controller", has_text=runs[1].name)
    lead = rivals.locator("td").last.inner_text()
    assert " to " in lead
    page.locator("#kinds label", has_text=runs[1].name).click()
    assert rivals.count() == 0
    before = page.locator("#strip").inner_text()
    page.locator("#run").select_option(index=1)
    assert page.locator("#strip").inner_text() != before


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation_of_wcag(open_report, scheme):
    page = open_report(color_scheme=scheme).page
    look_at_everything(page)
    options = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}
    violations = Axe().run(page, options=options).response["violations"]
    assert [(v["id"], [node["html"] for node in v["nodes"]]) for v in violations] == []
