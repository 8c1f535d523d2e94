"""Samples that a backend writes side by side, dropped while they are written."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(eq=False)
class Sample:
    """An attempt as far as it is written; a `Watcher`.

    Attributes:
        text: without what is not complete yet.
        ends: characters of the text after each token.
        logprobs: of each token, in nats.
        done: whether it has ended.
    """

    text: str = ""
    ends: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    done: bool = False

    def wrote(self, text: str, logprob: float) -> None:
        """See `Watcher.wrote`."""
        self.text += text
        self.ends.append(len(self.text))
        self.logprobs.append(logprob)

    def ended(self) -> None:
        """See `Watcher.ended`."""
        self.done = True

    def groups(self, size: int) -> list[float]:
        """Mean log-probability of each group of tokens, the last one perhaps not whole."""
        parts = (self.logprobs[i : i + size] for i in range(0, len(self.logprobs), size))
        return [sum(part) / len(part) for part in parts]
