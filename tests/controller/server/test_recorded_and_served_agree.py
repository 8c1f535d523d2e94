"""What is recorded from a server and what is served before the same server agree.

Commands as users type them: record, train, serve. With `ALLOT_REAL_MODEL=FILE.gguf`, or two files
with a `:` between them, behind llama.cpp too.
"""

import json
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack

import numpy as np
import openai

from controller.checkpoint import load_checkpoint
from controller.policy.pricing import Pricing
from controller.process.terms import Terms
from envs.traces.format import TraceSet
from envs.traces.recorded import read_recorded
from recipes.live import ask_service
from tests.conftest import CHECKPOINTS, REAL, needs_real_model
from tests.controller.server.llama_cpp import llama_cpp
from tests.controller.server.test_end_to_end import transformers_serve
from tests.controller.server.test_operating import serving
from training.compare.simulate import play_checkpoint

SIZES = {"small": 1e6, "large": 8e6}


def allot(*command):
    done = subprocess.run(
        [sys.executable, "-m", "training.cli", *map(str, command)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def write_questions(path, texts_and_answers, splits):
    """As many as `splits` says, the splits interleaved."""
    order = [split for split, count in splits.items() for _ in range(count)]
    np.random.default_rng(0).shuffle(order)
    rows = [
        {"question_id": f"q{i}", "question": text, "reference": answer, "split": split}
        for i, (split, (text, answer)) in enumerate(zip(order, texts_and_answers, strict=False))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def agree(tmp_path, arms, record=(), steps=50_000):
    """Record, train, serve and ask; the policy decides, as well and as dearly as in replay."""
    traces, out, menu = tmp_path / "traces", tmp_path / "controller", tmp_path / "menu.yaml"
    menu.write_text(json.dumps({"arms": arms}))
    sizes = [f"{arm['name']}={SIZES[arm['tier']]:.0f}" for arm in arms]
    record = [*record, *(word for size in sizes for word in ("--parameters", size))]
    asked = ["--questions", tmp_path / "questions.jsonl", "--escalations", "2"]
    allot("record", "--out", traces, "--menu", menu, *asked, *record)
    allot("train", "--traces", traces, "--out", out, "--steps", str(steps))

    checkpoint, recorded = load_checkpoint(out), read_recorded(TraceSet.read(traces), ["test"])
    price = Pricing(checkpoint).price_for(Terms())
    with serving(out, options=["--menu", menu]) as service:
        client = openai.OpenAI(base_url=f"{service.http.base_url}/v1", api_key="any")
        rows = [ask_service(client, question, price) for question in recorded.questions]
        ready = service.http.get("/ready").json()
    told = [row["allot"] for row in rows]
    decisions = [decision for allot in told for decision in allot["decisions"]]
    others = [decision for decision in decisions if decision["decided_by"] != "policy"]
    assert len(others) <= 0.01 * len(decisions), others[:3]
    assert ready["warnings"] == []
    assert all(a["prompt_tokens"] for decision in decisions for a in decision["attempts"])

    played = play_checkpoint(checkpoint, recorded.table, price)
    right = [row["right"] for row in rows]
    for served, replayed in ((right, played.right), ([a["cost"] for a in told], played.cost)):
        spread = max(np.std(served), np.std(replayed)) / len(served) ** 0.5
        assert abs(np.mean(served) - np.mean(replayed)) <= 3.5 * spread + 1e-9, (served, replayed)


def test_transformers_serve(tmp_path, traces):
    """The bundled models, the small one as two arms of one server, which samples by default here.

    The server tells no log-probabilities and counts no tokens.
    """
    # Enough to learn from that every feature has moved: what never did is strange when it does.
    splits = {"train": 32, "validation": 8, "test": 12}
    table = traces.questions.to_pylist()
    asked = [(q["question"], q["reference"]) for q in table if q["split"] == "test"]
    places = np.random.default_rng(1).choice(len(asked), sum(splits.values()), replace=False)
    write_questions(tmp_path / "questions.jsonl", [asked[i] for i in places], splits)
    with ExitStack() as stack:
        started = []
        for name in SIZES:
            shutil.copytree(CHECKPOINTS / name, tmp_path / name)
            settings = tmp_path / name / "generation_config.json"
            sampling = {**json.loads(settings.read_text()), "do_sample": True, "top_k": 0}
            settings.write_text(json.dumps(sampling))
            started.append(stack.enter_context(transformers_serve(tmp_path / name)))
        for server in started:
            server.wait()
        small, large = (f"{server.url}#{server.name}" for server in started)
        arms = [
            {"name": "small", "model": small, "tier": "small"},
            {"name": "greedy", "model": small, "tier": "small", "body": {"temperature": 0}},
            {"name": "large", "model": large, "tier": "large"},
        ]
        agree(tmp_path, arms, ["--samples", "3", "--max-new-tokens", "64"])


@needs_real_model
def test_llama_cpp(tmp_path):
    """Sums, asked with a prompt that the checkpoint remembers."""
    rng = np.random.default_rng(0)
    sums = [(f"What is {a} + {b}?", str(a + b)) for a, b in rng.integers(1, 10, (44, 2)).tolist()]
    write_questions(tmp_path / "questions.jsonl", sums, {"train": 24, "validation": 8, "test": 12})
    prompt = "{question} Reply with 'Answer: ' and the number."
    with ExitStack() as stack:
        arms = [
            {
                "name": name,
                "model": f"{stack.enter_context(llama_cpp(file, name))}#{name}",
                "tier": name,
            }
            for file, name in zip((REAL[0], REAL[-1]), SIZES, strict=True)
        ]
        agree(tmp_path, arms, ["--samples", "6", "--max-new-tokens", "16", "--prompt", prompt])
    models = load_checkpoint(tmp_path / "controller").models
    assert [model.prompt for model in models] == [({"role": "user", "content": prompt},)] * 2
