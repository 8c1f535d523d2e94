"""A controller for models of your own: a backend needs these three members.

python examples/own_backend.py --out runs/adders
"""

import argparse
import random
from dataclasses import replace
from pathlib import Path

from controller.backends.base import Backend, PromptState
from controller.backends.identity import blank_attempt, stream_name
from controller.loop import Controller
from controller.process.types import ModelSpec, Question
from envs.questions.grader import KindGrader
from training.cli.train import train
from training.record.recorders import LocalRecorder
from training.record.recording import Recording
from training.record.settings import RecordConfig


class Adders(Backend):  # `hasty` slips in one of twenty additions, `careful` never
    models = (
        ModelSpec(name="hasty", rung=0, parameters=1e6, max_new_tokens=10),
        ModelSpec(name="careful", rung=1, parameters=1e7, max_new_tokens=10),
    )

    async def prompt_states(self, questions, *, hidden=False):
        return [PromptState(prompt_tokens=(len(q.text.split("+")),) * 2) for q in questions]

    async def attempts(self, requests):
        return [self.add(request, self.models[request.rung].name) for request in requests]

    def add(self, request, name):  # call your model here
        numbers = [int(n) for n in request.question.text.split("+")]
        luck = random.Random(stream_name(0, name, request))
        slips = sum(luck.random() < 0.05 for _ in numbers) if name == "hasty" else 0
        counts = {"prompt_tokens": len(numbers), "completion_tokens": 10}
        return replace(blank_attempt(name, request), answer=str(sum(numbers) + slips), **counts)


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--out", required=True, help="new directory")
parser.add_argument("--steps", default="400000", help="decisions to learn from")
arguments = parser.parse_args()
traces, trained = f"{arguments.out}/traces", f"{arguments.out}/controller"
asked = []
for i in range(800):
    numbers = random.Random(i).choices(range(1, 100), k=2 + i % 19)
    text = "+".join(map(str, numbers))
    asked.append(Question(question_id=text, text=text, reference=str(sum(numbers))))

recorder = LocalRecorder(Adders(), KindGrader(), RecordConfig(samples=8))
Recording({"train": asked[200:], "validation": asked[:200]}, recorder, Path(traces), {}).run()
made = train(out=trained, traces=traces, steps=arguments.steps, num_envs="256", wandb="disabled")
print(f"utility {made.utility[Path(trained)]:.3f}, best rule in hindsight {made.best_rule:.3f}")
controller = Controller.load(trained, Adders())
for question in asked[19:38:6]:
    outcome = controller.answer(question, price=1.5e-3)
    print(question.text, "=", outcome.answer, [str(d.action) for d in outcome.decisions])
