"""A recorded menu whose arms are known by hand: two small families, two large models."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa

from envs.traces.format import ATTEMPT_SCHEMA, MANIFEST, QUESTION_SCHEMA, TRACE_VERSION, write_table

ARMS = {
    # tier, family, samples, parameters, tokens, share right of easy and of hard questions
    "ant": ("small", "insect", 3, 1e8, 20, 0.8, 0.1),
    "cat": ("small", "mammal", 3, 2e8, 20, 0.8, 0.2),
    "cow": ("large", "mammal", 1, 2e9, 40, 0.95, 0.5),
    "whale": ("large", "whale", 2, 2e10, 60, 0.98, 0.9),
}


def write_menu(
    out: Path,
    num_questions: int = 240,
    seed: int = 0,
    revisers: tuple[str, ...] = (),
    verifier: str = "",
    thinker: str = "",
) -> Path:
    """A trace set; every other question is hard, as its wording says.

    Each of the `revisers` revises the first attempt of every arm at two questions of three, as well
    as it answers. The `verifier` judges all attempts: too sure of itself, and more often right
    than wrong. The `thinker` thinks for half of its tokens.
    """
    rng = np.random.default_rng(seed)
    questions, attempts = [], []
    for q in range(num_questions):
        name, hard = f"q{q}", q % 2
        text = f"Prove that {q} is not a square." if hard else f"What is {q} + 1?"
        split = ("train", "train", "train", "validation", "test")[q // 2 % 5]
        questions.append(
            {"question_id": name, "dataset": "toy", "level": 1 + hard, "question": text}
            | {"reference": str(q + 1), "split": split}
        )
        for arm, (tier, _, samples, _, tokens, *shares) in ARMS.items():
            for index in range(samples):
                right = rng.random() < shares[hard]
                attempts.append(
                    {"question_id": name, "attempt_id": f"{name}:{arm}:{index}", "model": arm}
                    | {"tier": tier, "action": "escalate" if tier == "large" else "sample"}
                    | {"index": index, "correct": bool(right)}
                    | {"answer": str(q + 1 if right else 1000 + int(rng.integers(20)))}
                    | {"prompt_tokens": 10, "mean_logprob": float(-rng.random())}
                    | {"completion_tokens": int(rng.integers(tokens // 2, 2 * tokens))}
                    | {"min_logprob": -1.0, "finish_reason": "stop"}
                )
                if arm == thinker:
                    attempts[-1]["reasoning_tokens"] = attempts[-1]["completion_tokens"] // 2
        for parent in attempts[-sum(arm[2] for arm in ARMS.values()) :]:
            for arm in revisers if q % 3 and not parent["index"] else ():
                right = rng.random() < ARMS[arm][5 + hard]
                attempts.append(
                    parent
                    | {"attempt_id": f"{parent['attempt_id']}>{arm}:revise:0", "model": arm}
                    | {"parent_id": parent["attempt_id"], "tier": ARMS[arm][0]}
                    | {
                        "action": "revise",
                        "correct": bool(right),
                        "answer": str(q + 1 + (not right)),
                    }
                    | {"prompt_tokens": 15 + parent["completion_tokens"]}
                )
    for row in attempts if verifier else ():
        sure = rng.normal(3 if row["correct"] else -1, 2)
        row["verifier_score"] = float(1 / (1 + np.exp(-2 * sure)))
        row["verifier_tokens"] = 10 + row["completion_tokens"] + 25
    out.mkdir(parents=True)
    for file, rows, schema in (
        ("questions", questions, QUESTION_SCHEMA),
        ("attempts", attempts, ATTEMPT_SCHEMA),
    ):
        write_table(out / f"{file}.parquet", pa.Table.from_pylist(rows, schema))
    models = {
        arm: {"tier": tier, "family": family, "parameters": size, "max_new_tokens": 256}
        for arm, (tier, family, _, size, *_) in ARMS.items()
    }
    if verifier:
        models[verifier]["verifies"] = True
    manifest = {"version": TRACE_VERSION, "models": models, "recorded": {}}
    (out / MANIFEST).write_text(json.dumps(manifest))
    return out
