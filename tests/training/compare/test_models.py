"""How often recorded models are right: only of as many questions as say something."""

from envs.traces.format import TraceSet
from tests.training.conftest import thinned
from training.compare.models import FEWEST, model_table


def test_levels_and_tasks_with_few_questions_are_left_out(traces, tmp_path):
    some = TraceSet.read(thinned(traces, tmp_path / "some", every=15))
    table = model_table(some, "test")
    for kind in ("by level", "by task"):
        assert min(row["questions"] for row in table[kind]) >= FEWEST
    assert "by task and level" not in table  # none of them has so many
    assert "by task" not in model_table(some, "validation")


def test_what_is_all_of_one_level_and_task_is_told_once(traces, tmp_path):
    plain = TraceSet.read(
        thinned(traces, tmp_path / "plain", every=15, without=("level", "dataset"))
    )
    assert not {"by level", "by task", "by task and level"} & {*model_table(plain, "test")}
