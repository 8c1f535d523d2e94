"""List prices of models, as shipped: list_prices.yaml."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

import yaml

_DATE = re.compile(r"[-@]?\d{4}-?\d{2}-?\d{2}$")


def listed(name: str) -> tuple[float, float, float] | None:
    """Dollars of a million prompt, cached and written tokens; None of a model that is not listed.

    Who resells a model, and the date behind its name, make no difference.

    >>> listed("openai/gpt-4o-mini-2024-07-18")
    (0.15, 0.075, 0.6)
    """
    return _table().get(_DATE.sub("", name.lower().rpartition("/")[2]))


@cache
def _table() -> dict[str, tuple[float, float, float]]:
    text = (files("controller.backends") / "list_prices.yaml").read_text(encoding="utf-8")
    return {model: (*prices,) for model, prices in yaml.safe_load(text)["models"].items()}
