"""Imports go one way: controller <- envs <- training <- what stays in the checkout."""

import ast
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions
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


def modules_used(path: Path, modules: dict[str, Path]) -> set[str]:
    """Modules of this repository that a file imports, within functions and for types as well."""
    used = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            used |= {name if name in modules else node.module for name in names}
    return used & modules.keys()


def test_no_module_imports_itself_by_way_of_others():
    files = [path for package in FORBIDDEN for path in (ROOT / package).rglob("*.py")]
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in files
    }
    uses = {name: modules_used(path, modules) - {name} for name, path in modules.items()}
    TopologicalSorter(uses).prepare()


HEAVY = (
    *("datasets", "gymnasium", "matplotlib", "numpy", "pandas", "plotly", "pyarrow", "ray"),
    *("reasoning_gym", "scipy", "torch", "transformers", "trl", "wandb"),
)
NOT_DEPLOYED = {
    *("datasets", "gymnasium", "matplotlib", "plotly", "pyarrow", "ray", "reasoning_gym", "trl"),
    *("wandb", "wandb_workspaces"),
}


def loaded_by(program):
    """Top-level modules that a program has imported when it ends."""
    shown = "print(*{name.split('.')[0] for name in sys.modules}, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{program}\n{shown}"],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return set(done.stderr.split())


def test_a_deployment_imports_nothing_that_only_training_needs():
    everything = """
import importlib, pkgutil, controller
for module in pkgutil.walk_packages(controller.__path__, "controller."):
    importlib.import_module(module.name)
"""
    loaded = loaded_by(everything)
    assert "torch" in loaded
    assert not loaded & NOT_DEPLOYED


@pytest.mark.parametrize("command", [[], ["answer"], ["record"], ["serve"], ["train"]])
def test_help_comes_without_loading_anything_heavy(command):
    program = f"""
sys.argv = ["allot", *{command}, "--help"]
from training.cli.app import main
try:
    main()
except SystemExit as ended:
    assert not ended.code
"""
    assert not loaded_by(program) & set(HEAVY)


def test_what_goes_in_and_out_of_a_controller_comes_without_torch():
    program = "from controller import AllotError, ConfigError, Question"
    assert not loaded_by(program) & set(HEAVY)


def declared():
    """Distributions that pyproject.toml names: for deployments, and with all extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    base, all_ = project["dependencies"], [*extras["train"], *extras["ray"]]
    return [{plain(re.match(r"[\w.-]+", entry)[0]) for entry in part} for part in (base, all_)]


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_what_is_imported_is_declared(package):
    base, extras = declared()
    allowed = base if package == "controller" else base | extras
    owners = packages_distributions()
    for path in (ROOT / package).rglob("*.py"):
        for name in imported(path) - sys.stdlib_module_names - set(FORBIDDEN):
            assert {plain(owner) for owner in owners[name]} & allowed, f"{path}: {name}"
