"""From words for models to backends of them, loaded or behind servers."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from controller.answers import answer_kind
from controller.backends.base import Backend, recorded_temperature
from controller.backends.ladder import Absent, BlockingBackend, Ladder, ThreadedBackend
from controller.backends.places import (
    ModelPlace,
    Upstream,
    as_place,
    check_names,
    tell_downloads,
)
from controller.backends.prompts import REVISER, Message, read_prompts
from controller.checkpoint import AnyCheckpoint, Checkpoint, load_segment_checkpoint
from controller.errors import CheckpointError, ConfigError
from controller.process.episodes import EpisodeConfig
from controller.process.types import ModelSpec
from controller.segments.episodes import SegmentConfig
from controller.segments.types import SegmentBackend

if TYPE_CHECKING:
    from controller.backends.local.model import LocalModel
    from controller.backends.openai.replies import Pulse
    from controller.backends.openai.resilience import CircuitBreaker

KEY_VARIABLE = "ALLOT_UPSTREAM_KEY_{rung}"

OtherWeights = Callable[[ModelSpec, str, str], None]
"""Told what a controller was trained with, where another model was loaded from, its digest."""


def load_backend(
    checkpoint: AnyCheckpoint,
    models: Sequence[str | Path | ModelPlace] = (),
    adapters: Mapping[str, str | Path] | None = None,
) -> Backend | SegmentBackend:
    """Load the models that a checkpoint was trained for; the backend never suspends.

    Args:
        checkpoint: of either granularity.
        models: directories, GGUF files, hub ids or URL#MODEL of servers, in any mixture, the
            small model first; where the checkpoint says when empty.
        adapters: directories of the small model's adapters, by name; likewise.

    Raises:
        CheckpointError: nothing says where they lie, or they are not those it was trained for.
        ConfigError: other than one model per rung, one that is not there, or a server for
            decisions inside attempts.
        BackendError: a model cannot be loaded.
    """
    if not models and not checkpoint.model_paths:
        raise CheckpointError(
            f"{checkpoint.path}: expected to be told where {[m.name for m in checkpoint.models]} "
            "lie; pass models=[...], or a backend"
        )
    places = model_places(models or checkpoint.located_models(), checkpoint)
    builder = LadderBuilder(
        checkpoint=checkpoint, other_weights=checkpoint.refuse_weights, adapters=adapters
    )
    if not any(place is not None and place.is_server for place in places):
        return builder.in_process(places)
    if isinstance(checkpoint.config, SegmentConfig):
        raise ConfigError(
            f"models: expected models in this process for decisions inside attempts, found "
            f"{[str(model) for model in models]}"
        )
    return BlockingBackend(builder.build(places))


def model_places(
    models: Sequence[str | Path | ModelPlace], checkpoint: AnyCheckpoint
) -> tuple[ModelPlace | None, ...]:
    """Where the models of a controller are, one per rung; its own have the names of its training.

    A pair is named in order, or as in training. Of a menu the first arm is needed: None stands for
    others that are missing. Servers are asked for the names of training by default.

    Raises:
        ConfigError: too few, too many, one that is not there, or one that is to revise although
            the controller never saw it do so.
    """
    places = _places(models, checkpoint)
    menu = getattr(checkpoint.config, "menu", ())
    for rung, place in enumerate(places):
        for role in ("revises", "verifies"):
            names = [arm.name for arm in menu if getattr(arm, role)]
            if place and getattr(place, role) and not (menu and menu[rung].name in names):
                raise ConfigError(
                    f"arm {place.name}: expected {role} of arms alone that {checkpoint.path} "
                    f"learnt that from, {names or 'none'}; leave it out, or record it and train "
                    "again"
                )
    return places


def _places(
    models: Sequence[str | Path | ModelPlace], checkpoint: AnyCheckpoint
) -> tuple[ModelPlace | None, ...]:
    names = [model.name for model in checkpoint.models]
    if tuple(models) == checkpoint.located_models():
        # One file may have been recorded under several names.
        return tuple(
            replace(as_place(model), name=name) for model, name in zip(models, names, strict=True)
        )
    if len(names) > 2:
        return _arms([as_place(model, model="default") for model in models], names)
    if len(models) != len(names):
        raise ConfigError(
            f"models: expected {len(names)}, as {checkpoint.path} was trained for {names}, found "
            f"{[str(model) for model in models]}"
        )
    places = [as_place(model, model=n) for model, n in zip(models, names, strict=True)]
    by_name = {place.name: place for place in places}
    return tuple(by_name.get(name, place) for name, place in zip(names, places, strict=True))


def _arms(places: Sequence[ModelPlace], names: Sequence[str]) -> tuple[ModelPlace | None, ...]:
    """Places of a menu's arms by rung, None for those that are missing."""
    named = {place.name: place for place in check_names(places)}
    if not named.keys() <= {*names} or names[0] not in named:
        raise ConfigError(
            f"models: expected NAME=PLACE of {names[0]}, which prompts are read by, and of any of "
            f"{list(names[1:])}, found {list(named)}"
        )
    return tuple(named.get(name) for name in names)


@dataclass(frozen=True, kw_only=True)
class LadderBuilder:
    """Makes backends of the models that a controller is deployed on.

    Attributes:
        other_weights: called where a model in this process is not the one of its training.
        adapters: directories of the small model's adapters, by name; where the checkpoint says
            when None.
        prompts: what models are asked with, see `read_prompts`; the checkpoint's
            where nothing is said.
        max_new_tokens: longest attempt; None for what the controller was trained with.
        breaker: makes that of a server and the model asked of it, by a name for both and the
            model's; each backend has one of its own when None.
    """

    checkpoint: AnyCheckpoint
    other_weights: OtherWeights
    adapters: Mapping[str, str | Path] | None = None
    upstream: Upstream = field(default_factory=Upstream)
    max_connections: int = 256
    prompts: Sequence[str] = ()
    max_new_tokens: int | None = None
    observe: Callable[[str, str, float], None] = lambda *_: None
    breaker: Callable[[str, str], CircuitBreaker] | None = None
    _loaded: dict[str, LocalModel] = field(default_factory=dict)
    _pulses: dict[str, Pulse] = field(default_factory=dict)

    def build(self, places: Sequence[ModelPlace | None]) -> Ladder:
        """The ladder, one backend per rung; None stands for an arm that is missing.

        Raises:
            BackendError: a model cannot be loaded.
            CheckpointError: the controller inside attempts is for other models.
            ConfigError: settings of how servers are asked, and no server.
        """
        tell_downloads(places)
        idle = [n for n, value in vars(self.upstream).items() if value != getattr(Upstream, n)]
        if idle and not any(place and place.is_server for place in places):
            raise ConfigError(
                f"{', '.join(idle)}: expected a model behind a server, which they concern, found "
                f"{[place.text for place in places if place]}"
            )
        said = read_prompts(self.prompts, [place.name for place in places if place])

        def backend(rung: int, place: ModelPlace | None) -> Backend:
            trained = self.checkpoint.models[rung]
            if place is None:
                return Absent(trained)
            prompt = place.prompt or said.get(place.name, trained.prompt)
            if place.is_server:
                return self._served(place, rung, prompt)
            model = self._model(place, rung, prompt)
            needed = {adapter.name for adapter in trained.adapters}
            lacking = needed - {adapter.name for adapter in model.adapters}
            revises = self._revises(rung, lacking)
            return ThreadedBackend(self._local(place, model), revises=revises)

        return Ladder([backend(rung, place) for rung, place in enumerate(places)])

    def _revises(self, rung: int, lacking: Collection[str]) -> bool:
        """Whether attempts of an arm can be revised; it may lack adapters of its training.

        Raises:
            ConfigError: it is one that revises, and lacks what it revised with.
        """
        config = self.checkpoint.config
        if not getattr(config, "names_revisers", False):
            return rung == 0 and not lacking
        if rung in config.revisers and REVISER in lacking:
            raise ConfigError(
                f"reviser: expected the adapter that {self.checkpoint.models[rung].name} revised "
                "with in training, found none; name it (--reviser), or its directory beside the "
                "checkpoint's models"
            )
        return True

    def _verifies(self, rung: int) -> bool:
        menu = getattr(self.checkpoint.config, "menu", ())
        return bool(menu) and menu[rung].verifies

    def in_process(self, places: Sequence[ModelPlace | None]) -> Backend | SegmentBackend:
        """All models as one backend that never suspends.

        Raises:
            BackendError: a model cannot be loaded.
            CheckpointError: an adapter of the training is missing, or one is too many.
        """
        tell_downloads(places)
        checkpoint = self.checkpoint
        models = {
            rung: self._model(place, rung, place.prompt or checkpoint.models[rung].prompt)
            for rung, place in enumerate(places)
            if place is not None
        }
        if isinstance(checkpoint.config, SegmentConfig):
            from controller.backends.local.segments import segment_writer

            answers = answer_kind(checkpoint.answers)
            return segment_writer(checkpoint, list(models.values()), 0, answers)
        if models[0].adapters != checkpoint.models[0].adapters:
            raise CheckpointError(
                f"{checkpoint.path}: expected adapters {checkpoint.models[0].adapters}, found "
                f"{models[0].adapters}; train a controller for these or restore them"
            )
        rungs = [
            Absent(trained) if place is None else self._local(place, models[trained.rung])
            for place, trained in zip(places, checkpoint.models, strict=True)
        ]
        return Ladder(rungs, at_once=False)

    def _model(self, place: ModelPlace, rung: int, prompt: tuple[Message, ...]) -> LocalModel:
        """A model in this process with its adapters, if they were trained on its weights."""
        from controller.backends.local.adapters import load_adapters
        from controller.backends.local.model import load_model

        trained = self.checkpoint.models[rung]
        loaded = self._loaded.get(place.source) or load_model(place, 0)
        self._loaded[place.source] = loaded
        loaded = replace(loaded, name=place.name, rung=rung, prompt=prompt)
        loaded = loaded.at_depth(place.body.get("num_loops", trained.body.get("num_loops")))
        if trained.digest and loaded.digest != trained.digest:
            self.other_weights(trained, place.text, loaded.digest)
            return loaded
        adapters, own = self.adapters, self.checkpoint.adapter_paths
        if adapters is None:
            adapters = {name: self.checkpoint.located(path) for name, path in own.items()}
        paths = {name: Path(path) for name, path in adapters.items()}
        return load_adapters(loaded, paths) if paths and rung == 0 else loaded

    def _local(self, place: ModelPlace, model: LocalModel) -> Backend:
        """A model in this process, sampled as in training if nothing else is said."""
        from controller.backends.local.backend import LocalBackend
        from controller.backends.local.segmented import written_under

        trained, under = self.checkpoint.models, self.checkpoint.segment_controller
        known = trained[model.rung].temperature
        known = recorded_temperature(trained) if known is None else known
        backend = LocalBackend(
            model,
            temperature=float(place.body.get("temperature", known)),
            max_new_tokens=self._longest(model.rung),
            answers=answer_kind(self.checkpoint.answers),
            verifies=self._verifies(model.rung),
        )
        if model.rung or under is None:
            return backend
        inside = load_segment_checkpoint(self.checkpoint.located(under[0]))
        return written_under(inside, backend, price=under[1])

    def _longest(self, rung: int) -> int:
        most: int = self.checkpoint.config.max_completion_tokens[rung]
        return self.max_new_tokens or most

    def _served(self, place: ModelPlace, rung: int, prompt: tuple[Message, ...]) -> Backend:
        from controller.backends.openai.backend import OpenAIBackend
        from controller.backends.openai.endpoint import Endpoint
        from controller.backends.openai.replies import Pulse

        trained, upstream = self.checkpoint.models[rung], self.upstream
        adapted = any(adapter.name == REVISER for adapter in trained.adapters)
        body = {**trained.body, **upstream.body, **place.body}
        endpoint = Endpoint(
            base_url=place.url or "",
            model=place.model or "",
            spec=ModelSpec(
                name=place.name,
                rung=rung,
                parameters=trained.parameters,
                max_new_tokens=self._longest(rung),
                # Servers sample as they did for the traces, if that is known.
                temperature=body.get("temperature", trained.temperature),
                prompt=prompt,
                prompt_length=trained.prompt_length if prompt == trained.prompt else None,
            ),
            api_key=os.environ.get(KEY_VARIABLE.format(rung=rung), "none"),
            reviser=upstream.reviser if rung == 0 else None,
            # A policy that learned with a reviser's adapter must not revise without it.
            revises=self._revises(rung, {REVISER} if adapted and not upstream.reviser else set()),
            verifies=self._verifies(rung),
            asks_n=upstream.upstream_n,
            streams=upstream.upstream_stream,
            body=body,
            wants_logprobs=self.checkpoint.config.reads_logprobs,
            tokenize=_tokenizer(self.checkpoint, rung),
            cached=place.cached,
            trained_for=trained,
            attempt_deadline_s=60 * upstream.attempt_deadline,
            silence_s=upstream.upstream_silence_s,
            idle_timeout_s=upstream.upstream_silence_s,
            max_connections=self.max_connections,
        )
        return OpenAIBackend(
            endpoint,
            answers=answer_kind(self.checkpoint.answers),
            breaker=self.breaker(f"{place.url} {place.model} {place.name}", place.name)
            if self.breaker
            else None,
            pulse=self._pulses.setdefault(place.url or "", Pulse()),
            observe=self.observe,
        )


def _tokenizer(checkpoint: AnyCheckpoint, rung: int) -> Callable[[Sequence[Message]], int] | None:
    """Counts chats by the tokenizer of the model that the checkpoint names, if it lies here."""
    paths = checkpoint.model_paths
    directory = (checkpoint.path or Path()) / paths[rung] if paths else Path()
    if not (directory / "tokenizer_config.json").exists():
        return None
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory.resolve(), local_files_only=True)
    if not tokenizer.chat_template:
        return None
    ids = partial(tokenizer.apply_chat_template, add_generation_prompt=True, return_dict=False)
    return lambda chat: len(ids(list(chat)))


def deployed_process(checkpoint: Checkpoint, backend: Backend) -> EpisodeConfig:
    """The decision process of a checkpoint on these models, without what they cannot do.

    Raises:
        ConfigError: the ladder has another length than in training.
    """
    process = checkpoint.config
    if len(backend.models) != process.num_rungs:
        raise ConfigError(
            f"{checkpoint.path}: expected models on {process.num_rungs} rungs, found "
            f"{[model.name for model in backend.models]}"
        )
    return replace(
        process,
        reads_prompt=process.reads_prompt and backend.reads_prompts,
        max_revisions=process.max_revisions if backend.revises else 0,
    )


def check_asked_alike(checkpoint: Checkpoint, began: Checkpoint) -> None:
    """See that models that are asked as `began` wants are asked as another checkpoint wants, too.

    Lengths of attempts are left out: a policy bears other ones.

    Raises:
        ConfigError: names, prompts, temperatures, further fields, or the kind of answers differ.
    """
    wanted, served = _asked(checkpoint), _asked(began)
    for what, found in wanted.items():
        if found != served[what]:
            raise ConfigError(
                f"{checkpoint.path}: expected the {what} that the models of this service are asked "
                f"with since its start, {served[what]}, found {found}; restart it with this "
                "checkpoint, or serve that by a service of its own"
            )


def _asked(checkpoint: Checkpoint) -> dict[str, object]:
    models, inside = checkpoint.models, checkpoint.segment_controller
    return {
        "names of models": [model.name for model in models],
        "prompts": [list(model.prompt) for model in models],
        "temperatures": [model.temperature for model in models],
        "further fields": [dict(model.body) for model in models],
        "kind of answers": checkpoint.answers,
        "price inside attempts": inside and inside[1],
    }
