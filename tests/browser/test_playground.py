"""The playground in a real browser, on the bundled models: asked, priced, limited, compared."""

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from controller.policy.deciders import NAMED_RULES
from controller.server.config import ServeConfig
from controller.server.keys import key_digest, new_key
from controller.server.run import build_service
from tests.browser.conftest import HOSTILE, PATIENCE_MS, Opened
from tests.controller.server.conftest import listening

expect.set_options(timeout=PATIENCE_MS)

DIVISOR = {
    "name": "Divisor",
    "text": "Find the Greatest Common Divisor (GCD) of these numbers: 44, 24. "
    "Give only the GCD as your final answer.",
    "answer": "4",
}
SEED = 2**31 // 4
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
FIRST_EVENT_S = 0.3


@pytest.fixture(scope="module")
def service():
    with listening(build_service(ServeConfig())) as running:
        yield running


@pytest.fixture
def open_page(chromium: Browser, service):
    """Opens the playground, with options of a browser context; seeds are always the same."""
    contexts = []

    def open_(**options) -> Opened:
        context = chromium.new_context(reduced_motion="reduce", **options)
        contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        context.add_init_script("Math.random = () => 0.25")
        opened = Opened(context.new_page())
        opened.page.on("request", lambda request: opened.requests.append(request))
        opened.page.on("console", lambda message: opened.complaints.append(message.text))
        opened.page.on("pageerror", lambda error: opened.complaints.append(str(error)))
        opened.page.goto(f"{service.url}/")
        return opened

    yield open_
    for context in contexts:
        context.close()


def ask(page: Page, example="Divisor"):
    page.get_by_role("button", name=example).click()
    page.get_by_role("button", name="Ask").click()
    done(page)


def done(page: Page):
    expect(page.locator("#says")).to_contain_text("It is done")


def terms(opened: Opened) -> list[dict]:
    """What the page asked the API for, in order."""
    asked = [request for request in opened.requests if request.method == "POST"]
    return [request.post_data_json["allot"] for request in asked]


def number(text: str) -> int:
    return int(re.sub(r"\D", "", text))


def test_a_question_is_decided_before_ones_eyes(open_page, service):
    opened = open_page()
    ask(opened.page)
    (asked,) = terms(opened)
    assert asked["seed"] == SEED
    told = service.ask(DIVISOR["text"], **asked).json()["allot"]
    page, decisions = opened.page, told["decisions"]
    assert page.locator(".step b").all_inner_texts() == [d["action"] for d in decisions]
    made = [attempt for d in decisions for attempt in d["attempts"]]
    cards = page.locator(".try[data-answer]").all()
    assert [card.get_attribute("data-answer") for card in cards] == [a["answer"] for a in made]
    expect(page.locator("#answer")).to_have_text(told["answer"])
    expect(page.locator("#cost")).to_have_text(f"{told['cost']:,.0f}")
    shown = "right" if told["answer"] == DIVISOR["answer"] else "wrong"
    expect(page.locator("#verdict")).to_contain_text(shown)
    assert float(re.search(r"[\d.]+", page.locator("#first").inner_text())[0]) <= FIRST_EVENT_S
    assert all(request.url.startswith(service.url) for request in opened.requests)
    assert opened.complaints == []


LISTEN = """() => {
    window.seen = [];
    const look = () => {
        for (const { textContent } of document.querySelectorAll(".writing span")) {
            seen.push(textContent);
        }
    };
    const all = { subtree: true, childList: true, characterData: true };
    new MutationObserver(look).observe(document.getElementById("lanes"), all);
}"""


def test_attempts_appear_as_they_are_written(open_page, service):
    opened = open_page()
    page = opened.page
    page.evaluate(LISTEN)
    ask(page)
    decisions = service.ask(DIVISOR["text"], **terms(opened)[0]).json()["allot"]["decisions"]
    texts = [attempt["text"] for decision in decisions for attempt in decision["attempts"]]
    seen = set(page.evaluate("seen"))
    assert texts
    assert {text[-36:] for text in texts} <= seen
    assert any(text.startswith(part) and part != text for text in texts for part in seen)
    assert page.locator(".writing").count() == 0
    assert opened.complaints == []


def test_each_step_shows_what_was_weighed_by_keyboard_alone(open_page, service):
    opened = open_page()
    page = opened.page
    page.locator("#question").focus()
    page.locator("#question").fill(DIVISOR["text"])
    page.keyboard.press("Enter")
    done(page)
    (asked,) = terms(opened)
    decisions = service.ask(DIVISOR["text"], **asked).json()["allot"]["decisions"]
    page.locator(".step").first.focus()
    for i, decision in enumerate(decisions):
        expect(page.locator(".step[aria-current=step]")).to_contain_text(f"{i + 1} ·")
        names = page.locator("#actions dt").all_inner_texts()
        assert names == list(decision["probabilities"])
        weights = sorted(decision["votes"].values(), reverse=True)
        shown = page.locator("#votes dd:not(.bar)").all_inner_texts()
        assert shown == [f"{weight:.1f}" for weight in weights]
        if decision["attempts"]:
            written = page.locator("#texts pre").all_text_contents()
            assert written == [attempt["text"] for attempt in decision["attempts"]]
        page.keyboard.press("ArrowRight")


def test_the_slider_is_the_price(open_page):
    opened = open_page()
    worth = opened.page.locator("#worth")
    said = set()
    for key in ("Home", "End"):
        worth.press(key)
        said.add(
            (worth.get_attribute("aria-valuetext"), opened.page.locator("#expected").inner_text())
        )
        ask(opened.page)
    assert len(said) == 2
    dear, cheap = (asked["price"] for asked in terms(opened))
    assert dear == pytest.approx(1000 * cheap, rel=1e-6)


def test_an_arm_is_switched_off(open_page):
    opened = open_page()
    page = opened.page
    page.get_by_label("escalate").uncheck()
    expect(page.get_by_label("sample")).to_be_disabled()
    ask(page, "Multiply")
    assert terms(opened)[0]["without"] == ["escalate"]
    assert "ESCALATE" not in page.locator(".step b").all_inner_texts()
    expect(page.locator("#warn")).to_contain_text("what is switched off")
    page.get_by_label("escalate").check()
    expect(page.get_by_label("sample")).to_be_enabled()


def test_rules_and_prices_are_played_only_when_asked_for_and_paid_for(open_page, service):
    opened = open_page()
    page = opened.page
    ask(page)
    assert len(terms(opened)) == 1
    page.get_by_label("play rules").check()
    cards = page.locator("#rules .run")
    expect(cards.locator(".chip", has_text="STOP")).to_have_count(len(NAMED_RULES) + 1)
    own, *rules = terms(opened)
    assert [asked["rule"] for asked in rules] == list(NAMED_RULES)
    told = [service.ask(DIVISOR["text"], **asked).json()["allot"] for asked in (own, *rules)]
    assert cards.locator(".got").all_inner_texts() == [each["answer"] for each in told]
    costs = [number(text.split("token")[0]) for text in cards.locator(".cost").all_inner_texts()]
    assert costs == [round(each["cost"]) for each in told]
    expect(page.locator("#spent")).to_contain_text(
        f"{sum(e['cost'] for e in told[1:]):,.0f} on what"
    )

    page.get_by_label("ask at five prices").check()
    expect(page.locator("#prices .run .right, #prices .run .wrong")).to_have_count(5)
    prices = [asked["price"] for asked in terms(opened)[1 + len(NAMED_RULES) :]]
    assert prices == sorted(prices, reverse=True)
    assert len(set(prices)) == 5
    assert opened.complaints == []


def test_a_refusal_is_told_and_the_next_question_is_answered(open_page):
    opened = open_page()
    opened.page.route("**/completions", lambda route: route.fulfill(
        status=429, json={"error": {"message": "too many questions at once"}}))  # fmt: skip
    opened.page.get_by_role("button", name="Ask").click()
    expect(opened.page.locator("#says")).to_have_text(
        "The service says: too many questions at once"
    )
    opened.page.unroute("**/completions")
    ask(opened.page)


def test_an_answer_is_stopped_and_its_playing_ends(open_page):
    opened = open_page()
    page = opened.page
    page.locator("#slow").check()
    page.get_by_role("button", name="Ask").click()
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#says")).to_have_text("Stopped.")
    ask(page)
    assert page.locator(".finish").count() == 1
    assert opened.complaints == []


def test_a_visitor_enters_a_key_where_one_is_needed(open_page, tmp_path):
    key = new_key()
    (tmp_path / "keys").write_text(f"visitor {key_digest(key)}\n")
    config = ServeConfig(keys=tmp_path / "keys", playground=True)
    with listening(build_service(config)) as running:
        page = open_page().page
        page.goto(f"{running.url}/")
        page.get_by_role("button", name="Ask").click()
        expect(page.locator("#says")).to_have_text("The service says: a valid API key is needed")
        page.get_by_label("API key").fill(key)
        ask(page)


def test_hostile_text_is_shown_and_inert(open_page):
    opened = open_page()
    page = opened.page
    for text in HOSTILE[:5]:
        page.locator("#question").fill(text)
        page.get_by_role("button", name="Ask").click()
        done(page)
    assert page.evaluate("typeof hacked") == "undefined"
    assert page.locator("img, iframe, object").count() == 0
    assert opened.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", [{"viewport": {"width": 1280, "height": 900}}, PHONE])
def test_axe_finds_no_violation_and_a_phone_needs_no_scrolling_sideways(open_page, device, scheme):
    page = open_page(color_scheme=scheme, bypass_csp=True, **device).page  # axe is a script, too
    page.get_by_label("play rules").check()
    page.get_by_label("ask at five prices").check()
    ask(page, "Count letters")
    expect(page.locator("#prices .run .right, #prices .run .wrong")).to_have_count(5)
    page.locator("summary").click()
    options = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
    violations = Axe().run(page, options=options).response["violations"]
    assert [(v["id"], [node["html"] for node in v["nodes"]]) for v in violations] == []
    assert page.evaluate("document.documentElement.scrollWidth") == device["viewport"]["width"]
