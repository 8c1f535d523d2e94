"""Pictures show the best of each kind of rule, and actions in the same colours everywhere."""

import re
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest

from envs.pictures import ACTION_COLOURS
from tests.training.compare.test_results import point, results
from training.compare.results import Headline
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
    for place in (tmp_path, Path()):
        with pytest.raises(OSError, match=r"irectory|busy"):
            plot_utility(results(), place)
        assert not (place.parent / f"{place.name}.tmp").exists()


def test_costs_in_seconds_are_told_as_such(tmp_path):
    counted = replace(results(), seconds=0.02)
    assert (counted.cost_text(747), counted.price_text(1e-3)) == ("15 s", "20 s")
    with patch("training.report.plots.save_figure") as saved:
        plot_frontier(counted, tmp_path / "frontier.png")
    axes = saved.call_args.args[0].axes
    assert axes[0].get_xlabel() == "mean cost of 1,000 questions (seconds)"
    assert axes[1].get_xlabel() == "what a right answer is worth (seconds)"


def test_costs_in_dollars_are_told_as_such(tmp_path):
    counted = replace(results(), dollars=3e-7)
    assert [counted.cost_text(cost) for cost in (747, 18_670.8)] == ["$0.00022", "$0.0056"]
    assert results().cost_text(747.4) == "747"
    with patch("training.report.plots.save_figure") as saved:
        plot_frontier(counted, tmp_path / "frontier.png")
        plot_frontier(results(), tmp_path / "frontier.png")
        plot_actions({1e-3: {"STOP": 1.0}}, tmp_path / "actions.png", counted.currency)
    (dollars, tokens, actions) = (call.args[0].axes for call in saved.call_args_list)
    assert dollars[0].get_xlabel() == "mean cost of 1,000 questions (dollars)"
    assert dollars[1].get_xlabel() == "what a right answer is worth (dollars)"
    assert actions[0].get_xlabel() == "what a right answer is worth (dollars)"
    assert tokens[0].get_xlabel() == "mean compute per question (small-model tokens)"
    assert tokens[0].get_title(loc="left") == "Accuracy against cost"
    shown, plain = (
        {line.get_label(): line.get_xdata()[0] for line in axes[0].lines}["controller"]
        for axes in (dollars, tokens)
    )
    assert shown == pytest.approx(plain * 3e-7 * 1000)


def test_the_title_says_what_is_gained(tmp_path):
    gain = Headline(ratio=0.544, interval=(0.4, 0.7), accuracies=(0.6,))
    with patch("training.report.plots.save_figure") as saved:
        plot_frontier(replace(results(), headline={"always large": gain}), tmp_path / "x.png")
    title = saved.call_args.args[0].axes[0].get_title(loc="left")
    assert title == "As right as always large for 54% of its cost"


def test_an_action_has_one_colour_in_pictures_report_and_playground():
    report = (ROOT / "training" / "report" / "page.css").read_text()
    playground = (ROOT / "controller" / "server" / "playground.html").read_text()
    for name, colour in ACTION_COLOURS.items():
        in_report, in_playground = IN_PAGES.get(name, (name.lower(),) * 2)
        assert re.search(rf"--act-{in_report}: (#\w+)", report)[1] == colour
        if in_playground:
            assert re.search(rf"--{in_playground}: (#\w+)", playground)[1] == colour
