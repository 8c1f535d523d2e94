"""What one sees on the terminal: comparisons, and how a controller came to its answers."""

from __future__ import annotations

import random
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from controller.answers import UNSTATED, answer_kind, is_right
from controller.process.cost import TOKENS, Currency
from controller.process.types import Question
from training.report.view import plain_console

if TYPE_CHECKING:
    from controller.loop import Outcome
    from training.compare.results import Results, Seeds
    from training.compare.shadow import Shadow


_FEW_PRICES = 4


def command_line(program: str = "allot") -> str:
    """The command that is running, as one would type it."""
    return shlex.join([*program.split(), *sys.argv[1:]])


def print_rows(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print rows of names and shares as a table."""
    table = Table(title=title, box=None)
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(f"{v:.1%}" if isinstance(v, float) else str(v) for v in row.values()))
    plain_console().print(table)


def print_shadow(console: Console, found: Shadow) -> None:
    """Print what a controller would have saved and lost."""
    columns = ("", "questions", "served", "controller", "difference", "95%")
    rows = []
    for f in found.figures:
        figures = (f"{x:.4g}" for x in (f.served, f.controller, f.difference))
        interval = "{:.3g} to {:.3g}".format(*f.interval)
        rows.append((f.quantity, str(f.questions), *figures, interval))
    _print_table(console, columns, rows)
    console.print(f"same answer: {found.same:.1%}; spent on new attempts: {found.spent:.0f}")
    if found.left_out:
        console.print(
            f"left out: {found.left_out} questions, for which the controller wants attempts that "
            "are not in the log; --spend makes them"
        )


def print_results(console: Console, results: Results) -> None:
    """Print what a comparison found."""
    from training.report.markdown import headline_rows, price_rows

    by_price = (results.price_title, "accuracy", "cost", "utility", "best rule", "lead", "95%")
    _print_table(console, by_price, price_rows(results))
    by_kind = ("at equal accuracy with", "compute used", "95%", "at accuracies")
    _print_table(console, by_kind, headline_rows(results))
    console.print(f"behind a rule beyond its interval: {results.behind}")
    print_seeds(console, results.seeds)


def print_frontier(console: Console, results: Results) -> None:
    """Print a controller beside the best rule at a few of the prices, and the verdict on all."""
    from training.report.markdown import frontier_rows

    head = (results.price_title, "accuracy", "cost", "best rule", "accuracy", "cost", "lead")
    _print_table(console, head, frontier_rows(results, _FEW_PRICES))
    console.print(results.verdict, highlight=False)


def print_seeds(console: Console, seeds: Seeds) -> None:
    """Print what several seeds amount to; nothing of a single one."""
    from training.report.markdown import seed_rows

    if seeds.statistics:
        title = f"utility of {len(seeds.utility)} seeds"
        _print_table(console, (title, "value", "95%", "95%, each price apart"), seed_rows(seeds))


def _print_table(console: Console, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table(*head, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    console.print(table, "")


def new_questions(count: int, seed: int) -> list[Question]:
    """Bundled questions, drawn afresh from those that no model was trained on."""
    from envs.questions.bundled import TASKS, QuestionSource

    rng = random.Random(f"new/{seed}")
    questions = []
    for _ in range(count):
        source = QuestionSource(rng.choice(sorted(TASKS)), rng.choice((1, 2, 3, 4)))
        questions.append(next(source.draw("test", rng, num_draws=10_000)).question)
    return questions


_SHOWN = {"vote_share": "share", "last_min_logprob": "least logprob"}
"""Features that give the reason of a decision, where there are such."""


def print_outcome(
    console: Console, question: Question, outcome: Outcome, currency: Currency = TOKENS
) -> None:
    """One line per decision, then what came out, what it cost, and whether it is right if known."""
    console.print("", question.text.strip(), sep="\n", style="bold", highlight=False)
    names = [name for name in _SHOWN if name in outcome.decisions[0].observation]
    shown = [_SHOWN[name] for name in names]
    table = Table("action", "brought", "probabilities", "leader", *shown, "value", "cost", box=None)
    table.columns[0].overflow = table.columns[2].overflow = "fold"
    for decision in outcome.decisions:
        table.add_row(
            str(decision.action),
            ", ".join(made.brief for made in decision.brought),
            " ".join(f"{name} {p:.2f}" for name, p in decision.probabilities.items() if p >= 0.005),
            decision.leader or "-",
            *(f"{decision.observation[name]:.2f}" for name in names),
            f"{decision.value:.3f}",
            f"{decision.cost:.0f}",
        )
    console.print(table)
    verdict, answer = "", outcome.answer
    tried = any(decision.brought for decision in outcome.decisions)
    if question.reference is not None:
        right = is_right(answer_kind(question.answers or UNSTATED), answer, question.reference)
        verdict = f" ({'right' if right else f'wrong, the reference is {question.reference}'})"
    spent = f"{TOKENS.text(outcome.cost)} {TOKENS.name}"
    if currency != TOKENS:
        spent += f", that is {currency.text(outcome.cost)},"
    paid = f"cost {spent} x price {outcome.price:.1e} = {outcome.cost * outcome.price:.3f}"
    told = (answer or ("none: no attempt has one" if tried else "none: gave up"), "bold")
    console.print(Text.assemble("answer ", told, f"{verdict}, {paid}"))


def outcome_json(question: Question, outcome: Outcome) -> dict[str, Any]:
    """An outcome as JSON."""
    return {
        "question": question.text,
        "answer": outcome.answer,
        "text": outcome.attempt.text if outcome.attempt else None,
        "price": outcome.price,
        "cost": outcome.cost,
        "actions": dict(Counter(str(d.action) for d in outcome.decisions)),
        "usage": {model: asdict(usage) for model, usage in outcome.usage.items()},
        "decisions": [
            {**vars(d), "action": str(d.action), "brought": [made.brief for made in d.brought]}
            for d in outcome.decisions
        ],
    }
