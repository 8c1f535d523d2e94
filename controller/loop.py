"""Controllers: policy, backend and loop, for callers that wait."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from controller.answers import AnswerKind, answer_kind, first_same
from controller.backends.base import Backend, OneSpelling, run_now
from controller.backends.places import ModelPlace
from controller.checkpoint import AnyCheckpoint, Checkpoint, load_any
from controller.core import Decision, Episode, Pick, play
from controller.errors import ConfigError
from controller.granularity import Process
from controller.loading import deployed_process, load_backend
from controller.policy.deciders import Guarded, PolicyDecider
from controller.policy.difficulty import Difficulty
from controller.policy.pricing import Pricing
from controller.process.cost import Usage
from controller.process.terms import Terms
from controller.process.types import Attempt, Question
from controller.segments.episodes import SegmentConfig
from controller.segments.run import SegmentEpisode
from controller.segments.types import SegmentBackend

__all__ = ["Controller", "Decision", "Episode", "Outcome", "begin_episode"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a controller returns for a question.

    Attributes:
        answer: best answer seen; None when it gave up or none could be read.
        attempt: an attempt with that answer; None likewise.
        decisions: in order, the last one STOP unless nothing else was left to do.
        price: accuracy per unit cost that it was answered at.
        cost: in small-model tokens, every prompt processed once per episode.
        usage: what was really processed, by model name; less than `cost` says where a
            prompt was still cached from an earlier episode.
    """

    answer: str | None
    attempt: Attempt | None
    decisions: tuple[Decision, ...]
    price: float
    cost: float
    usage: dict[str, Usage]


async def begin_episode(
    question: Question,
    backend: Any,
    config: Process,
    terms: Terms,
    *,
    difficulty: Difficulty | None = None,
    pick: Pick | None = None,
    number: int = 0,
    answers: AnswerKind | None = None,
) -> Episode | SegmentEpisode:
    """A fresh episode of either granularity, with a backend for it; see `Episode`.

    `number` is that of the attempt, for decisions inside it. Answers of whole attempts vote for
    one another by the question's kind, else by `answers`; None if they are spelled the same.
    """
    if isinstance(config, SegmentConfig):
        attempts = [(question, number)]
        return SegmentEpisode(attempts, backend, config, terms, difficulty=difficulty)
    kind = answer_kind(question.answers) if question.answers else answers
    if kind is not None:

        async def canonical(answer: str, known: Sequence[str]) -> str:
            return first_same(kind, answer, known)

        backend = OneSpelling(backend, canonical)
    episode = Episode(question, backend, config, terms, difficulty=difficulty, pick=pick)
    await episode.begin()
    return episode


class Controller:
    """Policy + backend + loop, deciding about whole attempts or inside one.

    Args:
        checkpoint: decides; outside of its training, where it knows that, a rule does.
        backend: makes the attempts, or writes their segments.
        standing: terms of questions that do not say a price; see `Pricing`.

    Raises:
        CheckpointError: it was saved without the calibration that these terms need.
        ConfigError: such terms are out of reach, or there is other than one model per rung.
    """

    def __init__(
        self,
        checkpoint: AnyCheckpoint,
        backend: Backend | SegmentBackend,
        standing: Terms | None = None,
    ) -> None:
        self.checkpoint, self.backend = checkpoint, backend
        self.config: Process = checkpoint.config
        if isinstance(backend, Backend):
            self.config = deployed_process(checkpoint, backend)
        self.pricing = Pricing(checkpoint, standing)
        self.decider = PolicyDecider(checkpoint.policy, floor=checkpoint.floor)

    @classmethod
    def load(
        cls,
        path: str | Path | AnyCheckpoint,
        backend: Backend | SegmentBackend | None = None,
        *,
        models: Sequence[str | Path | ModelPlace] = (),
        adapters: Mapping[str, str | Path] | None = None,
        mean_cost: float | None = None,
        accuracy: float | None = None,
        confidence: float = 0.9,
    ) -> Controller:
        """A controller from a checkpoint directory.

        Its price is the one that brings `mean_cost` or `accuracy`, or else the middle of
        the range that it was trained for.

        Args:
            path: directory of a checkpoint, or what was read from it.
            backend: makes the attempts; None loads the models that the checkpoint names
                and checks their digests.
            models: where these lie, if not where the checkpoint says: directories, GGUF files,
                hub ids or URL#MODEL of servers, in any mixture, the small one first.
            adapters: where the small model's adapters lie, by name, likewise.
            mean_cost: small-model tokens that a question may cost on average, see
                `controller.policy.pricing.Pricing`.
            accuracy: share of questions to be answered right.
            confidence: probability with which `accuracy` is kept.

        Raises:
            CheckpointError: missing, damaged or hostile checkpoint, or models other than
                those it was trained for.
            ConfigError: both targets at once, or one that is out of reach; other than one model
                per rung, or one that is not there.
        """
        checkpoint = path if isinstance(path, Checkpoint) else load_any(path)
        standing = Terms(mean_cost=mean_cost, accuracy=accuracy, confidence=confidence)
        Pricing(checkpoint, standing)  # refuses them before models are loaded
        return cls(checkpoint, backend or load_backend(checkpoint, models, adapters), standing)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        backend: Backend | SegmentBackend | None = None,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        **options: Any,
    ) -> Controller:
        """A controller from the Hugging Face Hub (`user/name`), or from a directory.

        `revision` is a branch, tag or commit; without a token the one of `hf auth login` counts.
        Options and errors are those of `load`.
        """
        from controller.hub import from_hub

        checkpoint = from_hub(name, revision=revision, token=token)
        return cls.load(checkpoint, backend, **options)

    def decisions(self, episode: Episode | SegmentEpisode) -> Iterator[Decision]:
        """Decide until the episode ends, yielding each decision once carried out."""
        decider: Any = self.decider
        if isinstance(episode, Episode):
            decider = Guarded(decider, self.checkpoint)
        steps = play(episode, decider)
        with suppress(StopAsyncIteration):
            while True:
                step = run_now(anext(steps))
                if isinstance(step, Decision):
                    yield step

    def episode(
        self,
        question: str | Question,
        terms: Terms | None = None,
        *,
        number: int = 0,
        **wanted: Any,
    ) -> Episode | SegmentEpisode:
        """A fresh episode for a question, to be driven by `decisions`; see `answer`."""
        terms = terms or Terms(**wanted)
        terms = terms.at(self.pricing.price_for(terms))
        if isinstance(question, str):
            question = Question(question_id=question, text=question)
        _check_text(getattr(question, "text", question))
        wanted = {"difficulty": self.checkpoint.difficulty, "number": number}
        wanted["answers"] = answer_kind(self.checkpoint.answers)
        return run_now(begin_episode(question, self.backend, self.config, terms, **wanted))

    @property
    def price(self) -> float:
        """Price of a question whose terms do not say one."""
        return self.pricing.price_for(Terms())

    def close(self) -> None:
        """Let go of connections and threads of the backend."""
        if isinstance(self.backend, Backend):
            run_now(self.backend.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def answer(
        self,
        question: str | Question,
        terms: Terms | None = None,
        *,
        number: int = 0,
        **wanted: Any,
    ) -> Outcome:
        """Answer a question.

        Args:
            question: text, or a Question.
            terms: what it may cost; the controller's own price where they do not say one.
            number: of the attempt, for decisions inside it; others have other random streams.
            wanted: fields of `Terms`, in place of `terms`: `price`, `round_price`, `budget`, ...

        Raises:
            ConfigError: terms that are out of range, or no question.
            BackendError: the models cannot be reached at all.
        """
        terms = terms or Terms(**wanted)
        episode = self.episode(question, terms, number=number)
        decisions = tuple(self.decisions(episode))
        self.pricing.count(terms, episode.cost)
        return Outcome(
            answer=episode.answer,
            attempt=episode.best_attempt(),
            decisions=decisions,
            price=episode.price,
            cost=episode.cost,
            usage=episode.usage,
        )


def _check_text(text: Any) -> None:
    """Raise ConfigError for what no model could be asked."""
    if not isinstance(text, str) or not text.strip():
        raise ConfigError(f"question: expected a text, found {text!r}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"question: expected Unicode text, found half a surrogate pair at {error.start}; "
            'text.encode("utf-8", "replace").decode() repairs it'
        ) from None
