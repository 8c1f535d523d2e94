"""Record what a pair of language models writes about questions of your own.

    python examples/record.py --out traces

Models are directories or names on the Hugging Face Hub. An interrupted recording goes on where
it was; `allot record` does the same from the command line.
"""

import argparse
import random
from pathlib import Path

from controller.backends.local.backend import TransformersBackend, load_model
from controller.process.types import Question
from envs.questions.grader import KindGrader
from envs.traces.format import TraceSet
from training.learn.threads import limit_threads
from training.record.recorders import LocalRecorder
from training.record.recording import Recording
from training.record.settings import RecordConfig

MODELS = Path(__file__).parent.parent / "checkpoints"

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--out", type=Path, required=True, help="directory of the trace set")
parser.add_argument("--questions", type=int, default=60, help="how many")
parser.add_argument("--small", default=MODELS / "small", help="directory or hub id")
parser.add_argument("--large", default=MODELS / "large", help="directory or hub id")
arguments = parser.parse_args()

questions = []
for i in range(arguments.questions):
    a, b = random.Random(i).choices(range(2, 21), k=2)
    text = f"Solve the following multiplication: {a} * {b}."
    # The reference is for the grader alone; no model and no policy sees it.
    questions.append(Question(question_id=f"product/{i}", text=text, reference=str(a * b)))

limit_threads()
models = [load_model(arguments.small, rung=0), load_model(arguments.large, rung=1)]
backend = TransformersBackend(models, seed=0)
recorder = LocalRecorder(backend, KindGrader(), RecordConfig(samples=4, escalations=1))
Recording({"train": questions}, recorder, arguments.out, {}).run()

attempts = TraceSet.read(arguments.out).attempts.group_by("model")
for row in attempts.aggregate([("correct", "mean"), ("completion_tokens", "mean")]).to_pylist():
    right, tokens = row["correct_mean"], row["completion_tokens_mean"]
    print(f"{row['model']}: {right:.0%} right, {tokens:.0f} tokens an attempt")
