"""Text as a picture, for what records or shows environments frame by frame."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 800, 480
_SIZE, _MARGIN, _COLUMNS = 16, 16, 78
_ROWS = (HEIGHT - 2 * _MARGIN) // (_SIZE + 4)


@cache
def _font() -> Any:
    return ImageFont.truetype(
        Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSansMono.ttf", _SIZE
    )


def text_picture(lines: Sequence[str]) -> NDArray[np.uint8]:
    """Lines of text in black on white; of too many, the first and the last ones.

    Args:
        lines: top to bottom; long ones are wrapped.

    Returns:
        (HEIGHT, WIDTH, 3).
    """
    rows = [
        row
        for line in "\n".join(lines).splitlines()
        for row in textwrap.wrap(line, _COLUMNS, drop_whitespace=False) or [""]
    ]
    if len(rows) > _ROWS:
        rows = [*rows[: _ROWS // 2], "...", *rows[len(rows) - (_ROWS - _ROWS // 2 - 1) :]]
    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    ImageDraw.Draw(picture).multiline_text(
        (_MARGIN, _MARGIN), "\n".join(rows), "black", _font(), spacing=4
    )
    return np.asarray(picture).copy()
