"""The site works from files: its search finds pages, and nothing is asked of a server."""

import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import PATIENCE_MS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", out]
    subprocess.run(command, cwd=ROOT, check=True, timeout=300)
    return out


@pytest.mark.parametrize("start", ["index.html", "how-to/menus.html"])
def test_search_works_from_files(chromium: Browser, site, start):
    page, asked, complaints = chromium.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto((site / start).as_uri())
    page.get_by_role("textbox", name="Search").click()
    page.keyboard.type("plan selector")
    # A page of which one section alone has the words comes before it, without words to mark.
    found = page.locator(".md-search-result__item a[href*='h=plan']").first
    expect(found).to_be_visible(timeout=PATIENCE_MS)
    found.click()
    expect(page.locator("mark").first).to_be_visible(timeout=PATIENCE_MS)
    assert [url for url in asked if not url.startswith(("file:", "data:", "about:"))] == []
    assert complaints == []
    page.close()
