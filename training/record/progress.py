"""What one sees of a recording: a line while models write, and a row per model at its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
from rich.table import Table

from controller.process.types import CUT
from envs.traces.summary import majority, votes
from training.record.parts import Rows
from training.report.view import left

Watch = Callable[[Mapping[str, Rows]], None]
"""Is shown rows as they are recorded, by the tables' names."""


class RecordingView:
    """Counts attempts and says how far a recording is; `changed` is called when that may change."""

    def __init__(self) -> None:
        self.changed: Callable[[bool], None] = lambda matters: None
        self._total = self._before = self._done = self._tokens = 0
        self._fresh = self._read = self._cut = 0
        self._started = time.monotonic()

    def begin(self, total: int, left: int) -> Watch:
        """Of attempts that are wanted some are missing; returns what is called with new rows."""
        self._total, self._before = total, total - left
        self._started = time.monotonic()
        self.changed(True)
        return self._see

    def _see(self, rows: Mapping[str, Rows]) -> None:
        for row in rows.get("attempts", ()):
            self._done += 1
            self._tokens += row["completion_tokens"]
            if row["parent_id"] is None:
                self._fresh += 1
                self._read += row["answer"] is not None
                self._cut += row["finish_reason"] == CUT
        self._done += len(rows.get("scores", ()))
        self.changed(False)

    def __str__(self) -> str:
        done = self._before + self._done
        text = f"recording: {done:,} of {self._total:,} attempts"
        if not self._total or not self._done:
            return text
        seconds, fresh = time.monotonic() - self._started, self._fresh
        shares = f"{self._read / fresh:.0%} read, {self._cut / fresh:.0%} cut, " if fresh else ""
        return (
            f"{text} ({done / self._total:.0%}), {self._tokens / seconds:,.0f} tokens/s, {shares}"
            f"{left(self._done, self._total - self._before, seconds)} left"
        )


_COLUMNS = (
    *("question_id", "model", "parent_id", "answer", "correct", "finish_reason", "error"),
    *("completion_tokens", "reasoning_tokens", "prompt_tokens", "cached_tokens"),
)


def summary(out: Path, speeds: Mapping[str, float]) -> dict[str, dict[str, float | None]]:
    """How each model did, revisions aside, by the tables in `out`.

    Returns:
        By model: `attempts`; shares of them that could be `read`, were `cut`, `failed` and were
        `right`; the share of questions whose most frequent answer is right, `majority`; `tokens`
        per attempt and the share of `thinking` in them; `tokens_per_s` if measured; and the share
        of the prompts that was `cached`.
    """
    table = pq.read_table(out / "attempts.parquet", columns=list(_COLUMNS)).to_pandas()
    rows = table[table["parent_id"].isna()].rename(columns={"question_id": "question"})
    return {
        str(model): {**_shares(own), "tokens_per_s": speeds.get(str(model))}
        for model, own in rows.groupby("model", sort=False)
    }


def _shares(rows: pd.DataFrame) -> dict[str, float | None]:
    rows = rows.assign(correct=rows["correct"].eq(True))
    return {
        "attempts": len(rows),
        "read": float(rows["answer"].notna().mean()),
        "cut": float(rows["finish_reason"].eq(CUT).mean()),
        "failed": float(rows["error"].notna().mean()),
        "right": float(rows["correct"].mean()),
        "majority": majority(votes(rows)) / rows["question"].nunique(),
        "tokens": float(rows["completion_tokens"].mean()),
        "thinking": _share(rows["reasoning_tokens"], rows["completion_tokens"]),
        "cached": _share(rows["cached_tokens"], rows["prompt_tokens"]),
    }


def _share(counts: pd.Series, totals: pd.Series) -> float | None:
    """Of some tokens in others, unknown ones taken for none; None of nothing."""
    total = float(totals.sum())
    return float(counts.fillna(0).sum()) / total if total else None


def summary_table(summary: Mapping[str, Mapping[str, Any]]) -> Table:
    """What was recorded, a row per model."""
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    names = ("model", "attempts", "read", "cut", "failed", "right", "majority", "tokens")
    for name in (*names, "thinking", "tokens/s", "cached"):
        table.add_column(name, justify="left" if name == "model" else "right", overflow="fold")
    for model, found in summary.items():
        shares = (found[name] for name in ("read", "cut", "failed", "right", "majority"))
        table.add_row(
            model,
            f"{found['attempts']:,}",
            *(f"{share:.0%}" for share in shares),
            f"{found['tokens']:.0f}",
            "" if not found["thinking"] else f"{found['thinking']:.0%}",
            "" if found["tokens_per_s"] is None else f"{found['tokens_per_s']:,.0f}",
            "" if found["cached"] is None else f"{found['cached']:.0%}",
        )
    return table
