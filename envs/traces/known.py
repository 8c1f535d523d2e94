"""What stays in memory of questions and models while their attempts are read: a few bytes each."""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import pandas as pd

from envs.questions.files import SPLITS, wording_digest


@dataclass(kw_only=True)
class KnownModel:
    """What there is by a model.

    Attributes:
        attempts, read: how many, and those of them that have an answer.
        tried: attempts at each question.
        unread: texts of some that could not be read.
    """

    attempts: int = 0
    read: int = 0
    tried: array[int] = field(default_factory=lambda: array("i"))
    unread: list[str] = field(default_factory=list)

    def number(self, question: int) -> int:
        """The number of its next attempt at a question, from 0."""
        if question >= len(self.tried):
            self.tried.extend([0] * (question + 1 - len(self.tried)))
        self.tried[question] += 1
        return self.tried[question] - 1


class KnownQuestions:
    """What is recognized of each question: its place, split, and digests; 0 for none.

    Attributes:
        places: by name, in order of appearance.
    """

    def __init__(self) -> None:
        self.places: dict[str, int] = {}
        self._splits, self._references, self._wordings = bytearray(), array("q"), array("q")
        self._datasets = array("q")

    def add(self, name: str, split: str, reference: int, wording: int, dataset: int) -> int:
        """Note a new question; its place."""
        place = self.places[name] = len(self.places)
        self._splits.append(SPLITS.index(split))
        self._references.append(reference)
        self._wordings.append(wording)
        self._datasets.append(dataset)
        return place

    def known(self, place: int) -> tuple[str, int, int, int]:
        """Split, and digests of reference, wording and data set, of a question."""
        told = self._references[place], self._wordings[place], self._datasets[place]
        return SPLITS[self._splits[place]], *told

    @property
    def shared(self) -> int:
        """How often a wording is in a further split."""
        seen = np.stack([np.frombuffer(self._wordings, np.int64), np.array(self._splits)])
        pairs = pd.DataFrame(seen.T).drop_duplicates()
        return int(len(pairs) - pairs[0].nunique())


def digest(text: str) -> int:
    """Six bytes: whole numbers that stay exact where a column with gaps makes them floats."""
    found = hashlib.blake2b(text.encode(), digest_size=6).digest()
    return int.from_bytes(found, "big")


@lru_cache(4096)
def wording_of(question: str) -> int:
    """A wording, see `wording_digest`; attempts at one question often follow one another."""
    return int.from_bytes(wording_digest(question), "big", signed=True)


@lru_cache(4096)
def joined(references: tuple[str, ...]) -> int:
    """Stands for right answers, or for a name that comes often."""
    return digest("\0".join(references))
