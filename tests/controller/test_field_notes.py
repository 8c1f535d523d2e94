"""Notes of fields, from docstrings."""

from dataclasses import dataclass

from controller.field_notes import field_notes


@dataclass
class Base:
    """A base.

    Attributes:
        kept: from the base.
        changed: as the base has it.
    """

    kept: int
    changed: int


@dataclass
class Derived(Base):
    """Another.

    Attributes:
        changed: anew, over
            two lines.
    """


def test_notes_are_sentences_and_the_nearest_class_has_the_last_word():
    assert field_notes(Derived) == {"kept": "From the base.", "changed": "Anew, over two lines."}
