"""How often recorded models are right: only of as many questions as say something."""

from envs.traces.format import TraceSet
from training.compare.models import FEWEST, model_table


def test_levels_and_tasks_with_few_questions_are_left_out(few):
    table = model_table(TraceSet.read(few), "test")
    for kind in ("by level", "by task"):
        assert min(row["questions"] for row in table[kind]) >= FEWEST
    assert "by task and level" not in table  # none of them has so many
    assert "by task" not in model_table(TraceSet.read(few), "validation")
