"""What a policy sees after a segment: a flat vector, whose features are a table.

Nothing here is computed from a reference. Unknown signals read 0 and their `*_known` flag
reads 0 too.
"""

from __future__ import annotations

from controller.process.features import (
    BUDGET_KNOWN,
    COUNTS,
    DIFFICULTY,
    FLAG,
    KNOWN,
    LENGTHS,
    LOG_BUDGET_LEFT,
    LOG_PRICE,
    LOGPROBS,
    PER_UNIT,
    PLAIN,
    QUOTIENT,
    Feature,
    FeatureTable,
    counted,
    expected_costs,
    is_known,
    last_logprobs,
)
from controller.segments.episodes import PRICED

_COUNT = counted(1 / 4, "1/4 each")
_VALUE, _ANSWER = "value of the prefix", "forced answers"

# fmt: off
SEGMENT_FEATURES = FeatureTable(
    1,
    LOG_PRICE,
    BUDGET_KNOWN,
    LOG_BUDGET_LEFT,
    Feature("segments", COUNTS, "segments", _COUNT, "segments",
            "segments of the attempt so far"),
    Feature("length", LENGTHS, "tokens", PER_UNIT, lambda s: s.e.written / s.unit,
            "written so far"),
    Feature("done", COUNTS, "", FLAG, "done",
            "whether the attempt has ended"),
    Feature("redone", COUNTS, "places", PLAIN, "redone",
            "segments that were dropped and written again"),
    Feature("draw", COUNTS, "draws", _COUNT, "draw",
            "how often the last segment had been written before"),
    Feature("repeats", COUNTS, "share of draws", QUOTIENT, ("repeats", "draw"),
            "those of them that said the same"),
    Feature("escalated", COUNTS, "", FLAG, "escalated",
            "whether the large model has taken over"),
    *last_logprobs("last segment"),
    Feature("last_length", LENGTHS, "typical segments", _COUNT,
            lambda s: s.e.last_tokens / s.e.config.mean_segment_tokens,
            "length of the last segment"),
    Feature("mean_logprob", LOGPROBS, "nats", PLAIN, "logprob",
            "mean log-probability of all tokens so far"),
    Feature("min_logprob", LOGPROBS, "nats", PLAIN, "least_logprob",
            "the least of them"),
    Feature("next_entropy", LOGPROBS, "nats", KNOWN, "entropy",
            "entropy of the token that the small model expects next"),
    Feature("value_known", _VALUE, "", FLAG, lambda s: is_known(s.e.value),
            "whether the small model's state was read for how it will end"),
    Feature("value", _VALUE, "log-odds", KNOWN, "value",
            "that the small model ends right from here"),
    Feature("value_change", _VALUE, "log-odds", KNOWN, lambda s: s.e.value - s.e.value_before,
            "how the last segment changed it"),
    Feature("answer_known", _ANSWER, "", FLAG, lambda s: (s.e.probe >= 0) & s.e.config.probes,
            "whether an answer that was forced after the last segment could be read"),
    Feature("answer_streak", _ANSWER, "answers", _COUNT, lambda s: s.e.streak * s.e.config.probes,
            "forced answers that have been the same, one after the other"),
    Feature("prompt_length", LENGTHS, "tokens", PER_UNIT,
            lambda s: s.e.prompt_tokens[:, 0] / s.unit,
            "length of the small model's prompt"),
    *expected_costs(PRICED),
    *DIFFICULTY,
)
# fmt: on
