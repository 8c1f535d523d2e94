"""The W&B workspace: what would be saved shows what is logged."""

import json
import re

import pytest

from training.report.tracking import AXES


@pytest.fixture(scope="module")
def spec(allot):
    return json.loads(allot("dashboard", "team/allot", "--print").stdout)


@pytest.fixture(scope="module")
def panels(spec):
    sections = spec["spec"]["section"]["panelBankConfig"]["sections"]
    return [panel for section in sections for panel in section["panels"]]


@pytest.fixture(scope="module")
def logged(pair, offline_run):
    """By the metric that they are drawn against, names of all metrics."""
    runs = {"global_step": offline_run(pair / "seed-0"), "price": offline_run(pair)}
    return {axis: {*run.summary, *run.history()[0]} for axis, run in runs.items()}


def test_it_is_built_for_the_project_without_an_account(spec):
    assert (spec["entity"], spec["project"]) == ("team", "allot")
    (runs,) = spec["spec"]["section"]["runSets"]
    assert [key["name"] for key in runs["grouping"]] == ["group", "jobType"]


def test_every_line_has_a_logged_metric_on_the_right_axis(panels, logged):
    lines = [panel["config"] for panel in panels if panel["viewType"] == "Run History Line Plot"]
    assert {line["xAxis"] for line in lines} == {axis for axis, _ in AXES.values()} == set(logged)
    for line in lines:
        known = logged[line["xAxis"]]
        assert set(line["metrics"]) <= known
        pattern = line.get("metricRegex")
        assert bool(pattern) != bool(line["metrics"])
        assert not pattern or any(re.search(pattern, name) for name in known)


def test_every_chart_has_a_caption(spec):
    for section in spec["spec"]["section"]["panelBankConfig"]["sections"]:
        first, *charts = section["panels"]
        captions = re.findall(r"(?m)^- \*\*(.+)\*\*: .+\.$", first["config"]["value"])
        assert len(captions) == len(charts)
        for caption, chart in zip(captions, charts, strict=True):
            settings = chart["config"]
            assert settings.get("chartTitle", caption) == caption


def test_pictures_and_tables_are_logged(panels, pair, offline_run):
    last = offline_run(pair).summary
    (browser,) = [panel["config"] for panel in panels if panel["viewType"] == "Media Browser"]
    for name in browser["mediaKeys"]:
        assert last[name]["_type"] == "image-file"
        assert last[name]["caption"]
    tables = re.findall(r'"val": "(\w+)"', json.dumps(panels))
    assert set(tables) == {"policies", "decisions"}
    for name in tables:
        assert last[name]["_type"] == "table-file"


def test_the_sweep_panel_shows_settings_and_the_metric(panels, pair, offline_run):
    config = offline_run(pair / "seed-0").whole["config"]
    (plot,) = [panel["config"] for panel in panels if panel["viewType"].startswith("Parallel")]
    *settings, metric = [column["accessor"] for column in plot["columns"]]
    assert metric == "summary:validation/kept_utility"
    assert settings
    for accessor in settings:
        assert re.fullmatch(r"config:(\w+)\.value", accessor)[1] in config


def test_saving_needs_an_account(allot):
    done = allot("dashboard", "allot", check=False)
    assert done.returncode == 2
    assert "error: dashboard: expected a W&B account" in done.stderr


def test_saving_says_when_nobody_answers(allot):
    key = {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    done = allot("dashboard", "team/allot", check=False, **key)
    assert done.returncode == 2
    assert "error: dashboard: expected an answer from W&B" in done.stderr
