"""Many benchmarks in one run, and a large set made of a small one."""

from tests.conftest import CHECKPOINTS
from training.bench import everything, forward, scale


def test_rounds_are_summed_up_figure_by_figure():
    speeds = iter([3.0, 1.0, 8.0])
    order = []
    benches = {"a": lambda: {"speed": next(speeds), "of": "text"}, "b": lambda: {"right": True}}
    found = everything.run(benches, 3, order.append)
    assert found["figures"] == [
        {"benchmark": "a", "figure": "speed", "median": 3.0, "least": 1.0, "most": 8.0}
    ]
    assert order[:3] == ["round 1: a", "round 1: b", "round 2: a"]
    assert found["machine"]["cores"] >= 1


def test_the_large_set_is_the_small_one_over_and_over(few):
    found = scale.run(few, 50_000, num_envs=64, steps=2, repeats=1)
    assert found["attempts"] >= 50_000
    assert found["attempts"] % found["questions"] == 0
    assert found["bytes_per_attempt"] < 48
    assert found["ratio"] > 0


def test_generation_is_compared_with_forward_passes_of_the_same_batch():
    found = forward.run(CHECKPOINTS / "small", num_questions=4, num_samples=4, rows=16, repeats=1)
    assert found["share"] == found["generate_tokens_per_s"] / found["forward_tokens_per_s"]
    assert 0 < found["forward_share"] < 1
