"""What docstrings say of a dataclass's fields, for flags and for the API."""

from __future__ import annotations

import inspect
import re


def field_notes(owner: type) -> dict[str, str]:
    """The line of each field under `Attributes:`, of base classes too, as a sentence.

    >>> from controller.process.terms import Terms
    >>> field_notes(Terms)["budget"]
    'Hard cap on cost; None for no cap.'
    """
    found: dict[str, str] = {}
    for cls in reversed(owner.__mro__[:-1]):
        notes = inspect.cleandoc(cls.__doc__ or "")
        for name, note in re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", notes, re.MULTILINE):
            text = " ".join(note.split())
            found[name] = text[0].upper() + text[1:]
    return found
