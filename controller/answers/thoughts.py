"""Thoughts that a model writes between tags before its answer, where its server leaves them."""

from __future__ import annotations

from dataclasses import dataclass

_TAGS = {
    "<think>": "</think>",
    "<thought>": "</thought>",
    "<seed:think>": "</seed:think>",
    "[THINK]": "[/THINK]",
    "◁think▷": "◁/think▷",
    "<|START_THINKING|>": "<|END_THINKING|>",
    "<|channel|>analysis<|message|>": "<|start|>assistant<|channel|>final<|message|>",
}
"""Those that models bring along; others, such as `<thinking>`, belong to prompts."""


def parted(text: str) -> tuple[str, str]:
    r"""Thoughts, and what follows them; nothing follows thoughts that do not end.

    Some prompts have the first tag, so that a text has the second one alone.

    >>> parted("<think>2 + 5</think> 7"), parted("[THINK]2 + 5"), parted("2 + 5\n</think>\n7")
    (('2 + 5', '7'), ('2 + 5', ''), ('2 + 5\n', '7'))
    >>> parted("I put <think> and </think> around thoughts.")[0]
    ''
    """
    told = text.lstrip()
    for begin, end in _TAGS.items():
        alone = f"{end}\n" in text and begin not in text
        if told.startswith(begin) or alone:
            thoughts, _, said = told.removeprefix(begin).partition(end)
            return thoughts, said.lstrip()
    return "", text


@dataclass
class Parting:
    """Parts a text in pieces, which begins with the first tag if it has thoughts."""

    _held: str = ""
    _end: str | None = None
    _begun: bool = False
    _blank: bool = False  # nothing has followed the thoughts yet

    def add(self, piece: str) -> tuple[str, str]:
        """Thoughts and text that are sure to be such with one more piece.

        >>> parting = Parting()
        >>> [parting.add(piece) for piece in ("<thi", "nk>2 + ", "5</thi", "nk>", " 7")]
        [('', ''), ('2 + ', ''), ('5', ''), ('', ''), ('', '7')]
        """
        self._held += piece
        if not self._begun:
            told = self._held.lstrip()
            if any(
                begin.startswith(told[: len(begin)]) and len(told) < len(begin) for begin in _TAGS
            ):
                return "", ""
            begin = next(filter(told.startswith, _TAGS), None)
            self._begun, self._end = True, begin and _TAGS[begin]
            self._held = told.removeprefix(begin) if begin else self._held
        thoughts = ""
        if self._end:
            thoughts, ended, rest = self._held.partition(self._end)
            if not ended:
                kept = next(
                    n for n in range(len(self._end), -1, -1) if thoughts.endswith(self._end[:n])
                )
                self._held = thoughts[len(thoughts) - kept :]
                return thoughts[: len(thoughts) - kept], ""
            self._held, self._end, self._blank = rest, None, True
        said = self._held.lstrip() if self._blank else self._held
        self._held, self._blank = "", self._blank and not said
        return thoughts, said
