"""Pictures show the best of each kind of rule, and actions in the same colours everywhere."""

import re
from dataclasses import replace
from pathlib import Path

from envs.pictures import ACTION_COLOURS
from tests.training.compare.test_results import point, results
from training.report.plots import _envelope, plot_actions, plot_frontier, plot_utility

ROOT = Path(__file__).parents[3]
IN_PAGES = {"SAMPLE(n)": ("sample-wide", "wide"), "ESCALATE(end)": ("escalate-to-end", None)}


def test_only_points_that_no_mixture_of_others_reaches_are_drawn():
    places = ((3, 0.5), (1, 0.4), (2, 0.3), (2, 0.44), (0, 0.9))
    points = [replace(point(1.0), cost=cost, accuracy=accuracy) for cost, accuracy in places]
    assert _envelope(points) == ([0, 1, 3], [0, 0.4, 0.5])


def test_pictures_are_drawn_of_any_results(tmp_path):
    plot_frontier(results(), tmp_path / "frontier.png")
    plot_utility(results(), tmp_path / "utility.png")
    plot_actions({1e-3: {"STOP": 0.5, "SAMPLE(4)": 0.5, "VERIFY": 0.0}}, tmp_path / "actions.png")
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.iterdir())


def test_an_action_has_one_colour_in_pictures_report_and_playground():
    report = (ROOT / "training" / "report" / "page.css").read_text()
    playground = (ROOT / "controller" / "server" / "playground.html").read_text()
    for name, colour in ACTION_COLOURS.items():
        in_report, in_playground = IN_PAGES.get(name, (name.lower(),) * 2)
        assert re.search(rf"--act-{in_report}: (#\w+)", report)[1] == colour
        if in_playground:
            assert re.search(rf"--{in_playground}: (#\w+)", playground)[1] == colour
