"""Attempts to learn from."""

from training.adapters import AttemptText, _similarity, distinct


def attempt(text, right=True):
    return AttemptText(question="?", text=text, right=right, logprobs=(-0.1, -0.2))


def test_of_attempts_with_one_text_the_first_counts():
    found = distinct([attempt("a", right=False), attempt("b"), attempt("a")])
    assert {each.text: each.right for each in found} == {"a": False, "b": True}


def test_similarity_grows_with_what_is_shared():
    assert _similarity("1+2=4", "1+2=3") > _similarity("no idea", "1+2=3")
