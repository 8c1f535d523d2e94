"""What the bundled language models learn of the bundled tasks: fixed wordings, worked solutions."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from envs.questions.bundled import DrawnQuestion, Entry, QuestionSource

PHRASES: dict[str, tuple[str, ...]] = {
    "chain_sum": ("State the final answer to the following arithmetic problem:",),
    "products": (
        "Solve the following multiplication:",
        "Give only the result as your final answer.",
    ),
    "gcd": (
        "Find the Greatest Common Divisor (GCD) of these numbers:",
        "Give only the GCD as your final answer.",
    ),
    "lcm": ("Find the Least Common Multiple (LCM) of these numbers:",),
    "fraction_simplification": (
        "Simplify the fraction",
        "to its lowest terms. Give only the simplified fraction as your final answer.",
    ),
    "prime_factorization": (
        "Find the prime factorization of",
        "Write the factors separated by × (Example: for 12 the answer would be: 2 × 2 × 3)",
    ),
    "count_bits": ("How many 1 bits are there in the binary representation of the number",),
    "spell_backward": ("Spell this word backward (example: sun -> nus):",),
    "letter_counting": ("How many times does the letter", "appear in the text:"),
}
"""Fixed wording of each task's prompts; each becomes one token of the bundled tokenizer."""


def _euclid(a: int, b: int) -> tuple[int, list[str]]:
    steps = []
    a, b = max(a, b), min(a, b)
    while b:
        steps.append(f"{a}={a // b}*{b}+{a % b}")
        a, b = b, a % b
    return a, steps


def _solve_chain_sum(entry: Entry) -> list[str]:
    total, *rest = entry["metadata"]["expression"].split()
    value, steps = int(total), []
    for sign, term in zip(rest[::2], rest[1::2], strict=True):
        after = value + int(term) if sign == "+" else value - int(term)
        steps.append(f"{value}{sign}{term}={after}")
        value = after
    return steps


def _solve_products(entry: Entry) -> list[str]:
    value, *factors = (int(f) for f in entry["metadata"]["expression"].split(" * "))
    steps = []
    for factor in factors:
        partials = [int(d) * 10**i for i, d in enumerate(reversed(str(factor))) if d != "0"]
        total = 0
        for partial in partials:
            steps.append(f"{value}*{partial}={value * partial}")
            if total:
                steps.append(f"{total}+{value * partial}={total + value * partial}")
            total += value * partial
        value = total
    return steps


def _solve_gcd(entry: Entry) -> list[str]:
    return _euclid(*entry["metadata"]["numbers"])[1]


def _solve_lcm(entry: Entry) -> list[str]:
    a, b = entry["metadata"]["numbers"]
    divisor, steps = _euclid(a, b)
    return [*steps, f"{a}/{divisor}={a // divisor}", f"{a // divisor}*{b}={a // divisor * b}"]


def _solve_fraction(entry: Entry) -> list[str]:
    top, bottom = entry["metadata"]["numerator"], entry["metadata"]["denominator"]
    divisor, steps = _euclid(top, bottom)
    return [*steps, f"{top}/{divisor}={top // divisor}", f"{bottom}/{divisor}={bottom // divisor}"]


def _solve_factors(entry: Entry) -> list[str]:
    value, steps = entry["metadata"]["number"], []
    for factor in entry["metadata"]["factors"][:-1]:
        steps.append(f"{value}/{factor}={value // factor}")
        value //= factor
    return steps


def _solve_count_bits(entry: Entry) -> list[str]:
    value, ones, steps = entry["metadata"]["number"], 0, []
    while value:
        ones += value % 2
        steps.append(f"{value} {ones}")
        value //= 2
    return steps


def _solve_letter_counting(entry: Entry) -> list[str]:
    count, steps = 0, []
    for word in entry["metadata"]["span"]:
        count += word.lower().count(entry["metadata"]["target_letter"].lower())
        steps.append(f"{word} {count}")
    return steps


SOLVERS: dict[str, Callable[[Entry], list[str]]] = {
    "chain_sum": _solve_chain_sum,
    "products": _solve_products,
    "gcd": _solve_gcd,
    "lcm": _solve_lcm,
    "fraction_simplification": _solve_fraction,
    "prime_factorization": _solve_factors,
    "count_bits": _solve_count_bits,
    "spell_backward": lambda entry: [],
    "letter_counting": _solve_letter_counting,
}
"""Worked steps that lead to the answer, by task."""

_source = cache(QuestionSource)


def solution(drawn: DrawnQuestion) -> str:
    """The text that a model should write: worked steps, one per line, and the answer."""
    steps = SOLVERS[drawn.question.dataset](drawn.entry)
    return "\n".join([*steps, f"Answer: {drawn.question.reference}"])


def worked_solution(question_id: str) -> str:
    """The same of a bundled question, from its id."""
    task, level, index = question_id.split("/")
    return solution(_source(task, int(level))[int(index)])
