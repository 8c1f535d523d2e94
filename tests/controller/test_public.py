"""The names that `controller` offers."""

import inspect

import pytest

import controller
from controller import bundled, errors, loop
from controller.process import terms, types


def test_the_exported_names_are_these_and_can_be_had():
    assert controller.__all__ == sorted(controller.__all__)
    assert set(controller.__all__) <= set(dir(controller))
    found = {name: getattr(controller, name) for name in controller.__all__}
    classes = [c for _, c in inspect.getmembers(errors, inspect.isclass)]
    raised = {c.__name__: c for c in classes if issubclass(c, Exception)}
    assert found == raised | {
        "Controller": loop.Controller,
        "Decision": loop.Decision,
        "Outcome": loop.Outcome,
        "Question": types.Question,
        "Terms": terms.Terms,
    }


def test_other_names_are_unknown():
    with pytest.raises(AttributeError, match="no attribute 'Contoller'"):
        controller.Contoller  # noqa: B018


def test_bundled_things_are_where_one_does_not_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (bundled.bundled("traces") / "trace.json").exists()
