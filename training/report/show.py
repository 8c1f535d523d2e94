"""Shows how a controller came to its answers."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from controller.answers import UNSTATED, answer_kind, is_right
from controller.loop import Decision, Outcome
from controller.process.types import Question


def new_questions(count: int, seed: int) -> list[Question]:
    """Bundled questions, drawn afresh from those that no model was trained on."""
    from envs.questions.bundled import TASKS, QuestionSource

    rng = random.Random(f"new/{seed}")
    questions = []
    for _ in range(count):
        source = QuestionSource(rng.choice(sorted(TASKS)), rng.choice((1, 2, 3, 4)))
        questions.append(next(source.draw("test", rng, num_draws=10_000)).question)
    return questions


def print_outcome(console: Console, question: Question, outcome: Outcome) -> None:
    """One line per decision, with the numbers that gave the reason."""
    console.print(f"\n[bold]{question.text.strip()}[/bold]", highlight=False)
    shown = {"vote_share": "share", "last_min_logprob": "least logprob"}
    names = [name for name in shown if name in outcome.decisions[0].observation]
    heads = (
        "action",
        "brought",
        "probabilities",
        "leader",
        *(shown[n] for n in names),
        "value",
        "cost",
    )
    table = Table(*heads, box=None)
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
    print_answer(console, question, outcome.answer, outcome.cost, outcome.price)


def print_answer(
    console: Console, question: Question, answer: str | None, cost: float, price: float
) -> None:
    """What came out, what it cost, and whether it is right where that is known."""
    verdict = ""
    if question.reference is not None:
        right = is_right(answer_kind(question.answers or UNSTATED), answer, question.reference)
        verdict = f" ({'right' if right else f'wrong, the reference is {question.reference}'})"
    console.print(
        f"answer [bold]{answer if answer is not None else 'none: gave up'}[/bold]{verdict}, "
        f"cost {cost:.0f} small-model tokens x price {price:.1e} = {cost * price:.3f}",
        highlight=False,
    )


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
        "decisions": [_decision_json(decision) for decision in outcome.decisions],
    }


def _decision_json(decision: Decision) -> dict[str, Any]:
    return {
        "action": str(decision.action),
        "probabilities": decision.probabilities,
        "value": decision.value,
        "leader": decision.leader,
        "cost": decision.cost,
        "observation": decision.observation,
        "brought": [made.brief for made in decision.brought],
    }
