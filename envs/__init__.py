"""The Gymnasium side: environments over live models and recorded traces.

Importing this package registers `allot/Compute-v0`, for `gymnasium.make` and
`gymnasium.make_vec`; both take `traces=DIRECTORY` and `split`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium

if TYPE_CHECKING:
    from envs.compute import ComputeEnv
    from envs.vector import ComputeVectorEnv

COMPUTE_ID = "allot/Compute-v0"


def make_compute(traces: str, split: str = "train", **kwargs: Any) -> ComputeEnv:
    """`allot/Compute-v0` over a trace set; settings follow from its train split.

    Args:
        traces: directory of a trace set.
        split: train, validation or test.
        kwargs: of `envs.compute.ComputeEnv`.
    """
    from envs.compute import ComputeEnv
    from envs.derive import derive_config
    from envs.recorded import read_recorded
    from envs.traces import TraceSet

    trace_set = TraceSet.read(traces)
    models = trace_set.models()
    train = read_recorded(trace_set, ["train"])
    recorded = train if split == "train" else read_recorded(trace_set, [split])
    config = kwargs.pop("config", None) or derive_config(train.table, models)
    return ComputeEnv(recorded.questions, recorded.backend, config, recorded.grader, **kwargs)


def make_compute_vector(
    traces: str, num_envs: int = 1, split: str = "train", **kwargs: Any
) -> ComputeVectorEnv:
    """Vectorised `allot/Compute-v0` over a trace set.

    Args:
        traces: directory of a trace set.
        num_envs: N.
        split: train, validation or test.
        kwargs: of `envs.vector.ComputeVectorEnv`.
    """
    from envs.derive import derive_config
    from envs.table import TraceTable
    from envs.traces import TraceSet
    from envs.vector import ComputeVectorEnv

    trace_set = TraceSet.read(traces)
    models = trace_set.models()
    train = TraceTable.build(trace_set, ["train"])
    table = train if split == "train" else TraceTable.build(trace_set, [split])
    config = kwargs.pop("config", None) or derive_config(train, models)
    return ComputeVectorEnv(table, config, num_envs, **kwargs)


gymnasium.register(
    COMPUTE_ID,
    entry_point="envs:make_compute",
    vector_entry_point="envs:make_compute_vector",
    order_enforce=False,
)
