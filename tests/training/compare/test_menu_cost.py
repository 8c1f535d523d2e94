"""`allot cost MENU`, as typed."""

import json

import yaml

from tests.conftest import CHECKPOINTS

ARMS = [
    {"name": "small", "model": str(CHECKPOINTS / "small"), "tier": "small"},
    {"name": "mini", "model": "https://api.openai.com/v1#gpt-4o-mini-2024-07-18", "tier": "large"},
    {"name": "own", "model": "http://127.0.0.1:1/v1#own", "tier": "large"},
]


def test_every_arm_has_its_cost_and_the_reason(tmp_path, allot):
    menu = tmp_path / "menu.yaml"
    menu.write_text(yaml.safe_dump({"arms": ARMS}))
    traces = ("--traces", CHECKPOINTS / "traces")
    small, mini, own = json.loads(allot("cost", menu, *traces, "--json").stdout)
    assert (small["prompt"], mini["prompt"]) == ("19", "200"), "recorded lengths, or the default"
    assert float(small["operations"]) > float(small["a further"]) > 2 * 159_488 * 30
    assert float(mini["dollars"]) == round((0.15 * 200 + 0.6 * 300) / 1e6, 5)
    assert "whose size is not known" in own["why"]
    assert own["dollars"] == "-"
    (told,) = json.loads(allot("cost", menu, "--dollars", "own=1/2", "--json").stdout)[2:]
    assert float(told["dollars"]) == (200 + 600) / 1e6


def test_what_would_be_ignored_is_refused(tmp_path, allot):
    menu = tmp_path / "menu.yaml"
    menu.write_text(yaml.safe_dump({"arms": ARMS}))
    assert "expected none beside a menu" in allot("cost", menu, "--ladder", "a", check=False).stderr
    told = allot("cost", menu, "--dollars", "mine=1/2", check=False).stderr
    assert "expected arms among ['small', 'mini', 'own'], found 'mine'" in told
    told = allot("cost", "--dollars", "mine=1/2", check=False).stderr
    assert "dollars: expected arms among" in told
    assert "expected a menu" in allot("cost", "--batch", 8, check=False).stderr
    assert "expected one of h200" in allot("cost", menu, "--hardware", "x", check=False).stderr
