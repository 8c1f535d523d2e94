"""An episode as a picture, for what records or shows environments frame by frame."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import to_hex, to_rgb
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

ACTION_COLOURS = {
    "STOP": "#8f9197",
    "SAMPLE": "#4477aa",
    "SAMPLE(n)": "#7fb0dc",
    "REVISE": "#2b8a57",
    "ESCALATE": "#e0596b",
    "ESCALATE(end)": "#a3253c",
    "VERIFY": "#c5a316",
}
"""In all pictures, and in the light mode of the report's page and of the playground."""

WIDTH, HEIGHT = 800, 480
_PAPER, _TRACK, _INK, _MUTED = "#fbfbf9", "#f0f1ed", "#1b1c1e", "#5d6066"
_GOOD, _BAD = "#1a7f37", "#c0342b"
_MARGIN, _TOP, _BOTTOM = 20, 92, 392
_LANES = slice(126, 566)
"""Where attempts stand, from left to right."""
_VOTES = slice(594, WIDTH - _MARGIN)
_NARROWEST, _WIDEST, _CARD = 44, 96, 40
_MOST_VOTES, _COLUMNS = 6, 82
_PALEST = 0.6


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What is known of an episode.

    Attributes:
        lanes: names of the actions that can be taken, STOP aside.
        steps: name of each action taken, and in a few words what it brought.
        votes: weight of each answer, of which `answer` leads.
        cost: so far.
        right: whether the answer is; None while the episode goes on.
    """

    question: str
    price: float
    lanes: tuple[str, ...]
    steps: tuple[tuple[str, tuple[str, ...]], ...] = ()
    votes: Mapping[str, float] = field(default_factory=dict)
    cost: float = 0.0
    answer: str | None = None
    right: bool | None = None


def action_colour(name: str) -> str:
    """Colour of an action by its name; all widths of SAMPLE but 1 share one."""
    kind, _, how = name.partition("(")
    if name in ACTION_COLOURS:
        return ACTION_COLOURS[name]
    return ACTION_COLOURS["SAMPLE(n)" if kind == "SAMPLE" and how[:-1].isdigit() else kind]


def action_colours(names: Sequence[str]) -> list[str]:
    """Colours of several actions; those that only their arms tell apart have shades of one."""
    colours = [action_colour(name) for name in names]
    shades = {colour: colours.count(colour) for colour in colours}
    seen: Counter[str] = Counter()
    for place, colour in enumerate(colours):
        mixed = _PALEST * seen[colour] / max(shades[colour] - 1, 1)
        seen[colour] += 1
        rgb = (1 - mixed) * np.array(to_rgb(colour)) + mixed
        colours[place] = to_hex(tuple(rgb)) if mixed else colour
    return colours


def picture(frame: Frame) -> NDArray[np.uint8]:
    """A lane per action, votes beside, and below what was spent, (HEIGHT, WIDTH, 3)."""
    image = Image.new("RGB", (WIDTH, HEIGHT), _PAPER)
    canvas = ImageDraw.Draw(image)
    lines = textwrap.wrap(frame.question, _COLUMNS, max_lines=3, placeholder=" …")
    canvas.multiline_text((_MARGIN, 16), "\n".join(lines), _INK, _font(16), spacing=5)
    _draw_lanes(canvas, frame)
    _draw_votes(canvas, frame)
    _draw_end(canvas, frame)
    return np.asarray(image).copy()


def _draw_lanes(canvas: Any, frame: Frame) -> None:
    height = (_BOTTOM - _TOP) // len(frame.lanes)
    room = _LANES.stop - _LANES.start
    width = min(_WIDEST, max(_NARROWEST, room // max(1, len(frame.steps))))
    tops = {name: _TOP + height * i for i, name in enumerate(frame.lanes)}
    for name, top in tops.items():
        canvas.rectangle((_MARGIN, top, _MARGIN + 4, top + height - 8), action_colour(name))
        _write(canvas, (_MARGIN + 12, top + height // 2 - 12), name, 96, 13)
        box = (_LANES.start, top, _LANES.stop, top + height - 8)
        canvas.rounded_rectangle(box, 6, _TRACK)
    for i, (name, texts) in enumerate(frame.steps[-(room // width) :]):
        if name in tops:
            left, top = _LANES.start + i * width + 2, tops[name] + (height - 8 - _CARD) // 2
            box = (left, top, left + width - 4, top + _CARD)
            leads = frame.answer is not None and frame.answer in texts
            canvas.rounded_rectangle(box, 4, "white", _INK if leads else action_colour(name))
            canvas.rectangle((left, top, left + 4, top + _CARD), action_colour(name))
            first, *more = texts or ("done",)
            _write(canvas, (left + 9, top + (4 if more else 12)), first, width - 16, 13)
            if more:
                _write(canvas, (left + 9, top + 21), f"+ {len(more)}", width - 16, 12, _MUTED)


def _draw_votes(canvas: Any, frame: Frame) -> None:
    if not frame.votes:
        return
    canvas.text((_VOTES.start, _TOP - 4), "votes", _MUTED, _font(13))
    votes = sorted(frame.votes.items(), key=lambda vote: -vote[1])[:_MOST_VOTES]
    most = votes[0][1] or 1.0
    width = _VOTES.stop - _VOTES.start
    for i, (answer, weight) in enumerate(votes):
        top, leads = _TOP + 20 + 44 * i, answer == frame.answer
        _write(canvas, (_VOTES.start, top), answer, width - 48, 14)
        canvas.text((_VOTES.stop, top), f"{weight:.1f}", _MUTED, _font(13), anchor="ra")
        _bar(canvas, (_VOTES.start, top + 21, width), weight / most, _INK if leads else _MUTED)


def _draw_end(canvas: Any, frame: Frame) -> None:
    share = frame.price * frame.cost
    spent = f"spent {frame.cost:,.0f} tokens: {share:.1%} of what a right answer is worth"
    canvas.text((_MARGIN, 406), spent, _INK, _font(15))
    _bar(canvas, (_MARGIN, 432, _LANES.stop - _MARGIN), min(1.0, share), _INK)
    if frame.right is not None:
        verdict, colour = ("right", _GOOD) if frame.right else ("wrong", _BAD)
        _write(canvas, (_VOTES.start, 402), str(frame.answer), _VOTES.stop - _VOTES.start, 20)
        canvas.text((_VOTES.start, 432), verdict, colour, _font(15))


def _bar(canvas: Any, place: tuple[int, int, int], share: float, colour: str) -> None:
    """A bar at left, top, of some width, filled to a share."""
    left, top, width = place
    canvas.rounded_rectangle((left, top, left + width, top + 10), 4, _TRACK)
    if share > 0:
        canvas.rounded_rectangle((left, top, left + max(8.0, width * share), top + 10), 4, colour)


def _write(
    canvas: Any, place: tuple[int, int], text: str, width: int, size: int, colour: str = _INK
) -> None:
    """One line, as much of it as fits."""
    font, shown = _font(size), " ".join(text.split())
    while len(shown) > 1 and font.getlength(shown) > width:
        shown = shown.rstrip("…")[:-1] + "…"
    canvas.text(place, shown, colour, font)


@cache
def _font(size: int) -> Any:
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(fonts / "DejaVuSans.ttf", size)
