"""Pictures show the best of each kind of rule."""

from dataclasses import replace

from tests.training.compare.test_results import point, results
from training.report.plots import _envelope, plot_frontier, plot_utility


def test_only_points_that_no_cheaper_one_reaches_are_drawn():
    places = ((3, 0.5), (1, 0.4), (2, 0.3), (0, 0.9))
    points = [replace(point(1.0), cost=cost, accuracy=accuracy) for cost, accuracy in places]
    assert _envelope(points) == ([1, 3], [0.4, 0.5])


def test_pictures_are_drawn_of_any_results(tmp_path):
    plot_frontier(results(), tmp_path / "frontier.png")
    plot_utility(results(), tmp_path / "utility.png")
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.iterdir())
