"""The Gymnasium side: environments over live models and recorded traces.

Importing this package registers `allot/Compute-v0`, `allot/Segment-v0` and `allot/Session-v0`, for
`gymnasium.make` and `gymnasium.make_vec`; all take `traces=DIRECTORY`, the bundled set by default,
and `split`. The first two are one environment over traces of whole attempts and of segments, the
third is one of sessions, see `envs.sessions`.
"""

from __future__ import annotations

import gymnasium

from controller.bundled import bundled

COMPUTE_ID = "allot/Compute-v0"
SEGMENT_ID = "allot/Segment-v0"
SESSION_ID = "allot/Session-v0"

for _name, _traces_name in ((COMPUTE_ID, "traces"), (SEGMENT_ID, "segments/traces")):
    gymnasium.register(
        _name,
        kwargs={"traces": str(bundled(_traces_name))},
        entry_point="envs.compute:make",
        vector_entry_point="envs.vector:make_vector",
        order_enforce=False,
    )

gymnasium.register(
    SESSION_ID,
    kwargs={"traces": str(bundled("sessions"))},
    entry_point="envs.sessions.environment:make_session",
    vector_entry_point="envs.sessions.environment:make_sessions",
    order_enforce=False,
)
