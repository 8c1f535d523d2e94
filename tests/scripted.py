"""A backend without a model: its answers are given."""

from dataclasses import replace

from controller.backends.base import Backend, PromptState
from controller.backends.identity import blank_attempt
from controller.process.cost import CostModel, Usage
from controller.process.episodes import EpisodeConfig
from controller.process.types import ModelSpec

MODELS = [ModelSpec(name="small", rung=0), ModelSpec(name="large", rung=1)]
PROCESS = EpisodeConfig(
    cost=CostModel(weights=(1.0, 10.0)),
    vote_weights=(1, 2),
    mean_completion_tokens=(20.0, 20.0),
    max_completion_tokens=(40, 40),
    cost_unit=20.0,
)


class Scripted(Backend):
    """Gives the answers of each rung in order, over again when they run out; tokens are words."""

    def __init__(self, models, *answers):
        self.models, self.answers = tuple(models), answers

    async def prompt_states(self, questions, *, hidden=False):
        lengths = [len(question.text.split()) for question in questions]
        return [PromptState(prompt_tokens=(length,) * len(self.models)) for length in lengths]

    async def attempts(self, requests):
        return [self._attempt(request) for request in requests]

    def _attempt(self, request):
        answers, length = self.answers[request.rung], len(request.question.text.split())
        answer = answers[request.index % len(answers)]
        return replace(
            blank_attempt(self.models[request.rung].name, request),
            answer=answer,
            text="no idea" if answer is None else f"Answer: {answer}",
            prompt_tokens=length,
            completion_tokens=20,
            usage=Usage(prefill_tokens=length, decoded_tokens=20, serial_rounds=1),
        )
