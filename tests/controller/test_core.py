"""Episodes, attempt by attempt."""

from dataclasses import replace

import pytest

from controller.backends.base import run_now
from controller.core import Episode
from controller.process.actions import Action, ActionKind
from controller.process.cost import Usage
from controller.process.menu import PAIR
from controller.process.terms import Terms
from controller.process.types import Question
from tests.scripted import MODELS, PROCESS, Scripted

JUDGED = replace(
    PROCESS,
    arms=tuple(replace(arm, verifies=arm.name == "large") for arm in PAIR),
    verifies=True,
)
VERIFY = next(action for action in JUDGED.actions if action.kind is ActionKind.VERIFY)


class Judge(Scripted):
    """Judges attempts in order; None for a judgement that fails, after it has read so much."""

    verifies = True

    def __init__(self, *scores, read=30):
        super().__init__(MODELS, "12")
        self.scores, self.read = list(scores), read

    def _attempt(self, request):
        made = super()._attempt(request)
        if request.action is not ActionKind.VERIFY:
            return made
        score = self.scores.pop(0)
        error = "no reply" if score is None else None
        return replace(
            made,
            verifier_score=score,
            error=error,
            usage=Usage(prefill_tokens=30 if score else self.read),
        )


def judged(backend):
    episode = Episode(Question(question_id="q", text="1 + 1"), backend, JUDGED, Terms(price=1e-3))
    run_now(episode.begin())
    for _ in range(2):
        run_now(episode.take(Action(ActionKind.SAMPLE)))
    before = episode.cost
    run_now(episode.take(VERIFY))
    return episode, episode.cost - before


@pytest.mark.parametrize("read", [0, 30])
def test_a_failed_judgement_leaves_the_others_and_what_it_took(read):
    episode, cost = judged(Judge(0.9, None, read=read))
    assert [a.verifier_score for a in episode.attempts] == [0.9, None]
    assert episode.votes["1"] > episode.votes["2"]
    assert episode.usage["large"].verifier_tokens == 30 + read
    both = judged(Judge(0.9, 0.9))[1]
    assert 0 < cost <= both
    assert (cost < both) is (read == 0)
    assert not episode.mask()[0, JUDGED.actions.index(VERIFY)], "there is nothing left to judge"


@pytest.mark.parametrize(("read", "costs"), [(30, True), (0, False)])
def test_judgements_that_all_failed_cost_what_was_read(read, costs):
    episode, cost = judged(Judge(None, None, read=read))
    assert set(episode.votes.values()) == {1.0}
    assert (cost > 0) is costs
