"""Imports go one way: controller <- envs <- training <- what stays in the checkout."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OUTSIDE = {"benchmarks", "recipes", "tests"}
FORBIDDEN = {
    "controller": {"envs", "training", "gymnasium", "trl", "wandb", "ray", "reasoning_gym"},
    "envs": {"training", "trl", "wandb", "ray", "torch"},
    "training": set(),
}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_imports_go_one_way(package):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        assert not imported(path) & (FORBIDDEN[package] | OUTSIDE), path
