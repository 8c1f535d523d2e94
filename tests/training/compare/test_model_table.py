"""How often recorded models are right: only of as many questions as say something."""

from training.compare.model_table import FEWEST, model_table


def test_tasks_and_levels_with_few_questions_are_left_out(traces):
    table = model_table(traces, "validation")
    assert min(row["questions"] for row in table["by task and level"]) >= FEWEST
    assert table["overall"][0]["questions"] > sum(row["questions"] for row in table["by level"][1:])
