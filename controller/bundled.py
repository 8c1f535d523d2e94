"""Places of what comes with allot: models, their adapters, traces, controllers."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent.parent / "checkpoints"
"""Beside the packages: in a checkout and in an installed wheel alike."""


def bundled(name: str) -> Path:
    """Directory of something that comes with allot, by its name in `checkpoints/`.

    >>> (bundled("controller") / "controller.json").exists()
    True
    """
    return _FOLDER / name
