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

_COMPUTE = "envs.compute:make", "envs.vector:make_vector"
_SESSION = "envs.sessions.environment:make_session", "envs.sessions.environment:make_sessions"

for _name, _traces, (_one, _many) in (
    (COMPUTE_ID, "traces", _COMPUTE),
    (SEGMENT_ID, "segments/traces", _COMPUTE),
    (SESSION_ID, "sessions", _SESSION),
):
    gymnasium.register(
        _name,
        kwargs={"traces": str(bundled(_traces))},
        entry_point=_one,
        vector_entry_point=_many,
        order_enforce=False,
    )
