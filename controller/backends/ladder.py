"""From words for models to a ladder of backends, whether they are loaded or behind servers."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from controller.answers import answer_kind
from controller.backends.base import Backend
from controller.backends.places import ModelPlace
from controller.backends.prompts import Message, read_prompts
from controller.backends.rungs import Ladder
from controller.errors import ConfigError

if TYPE_CHECKING:
    from controller.checkpoint import Checkpoint
    from controller.process.episodes import EpisodeConfig
    from controller.process.types import ModelSpec

KEY_VARIABLE = "ALLOT_UPSTREAM_KEY_{rung}"

OtherWeights = Callable[["ModelSpec", str, str], None]
"""Told what a controller was trained with, where another model was loaded from, its digest."""


@dataclass(frozen=True, kw_only=True)
class Upstream:
    """How models behind servers are asked; see `controller.backends.openai.backend.Endpoint`.

    Attributes:
        asks_n: several choices in one request, of servers that make several.
        streams: stream from them.
        body: further fields of each request; a temperature, as the traces were recorded at, is
            in it unless this says otherwise.
        reviser: name of the model that REVISE asks on the small model's server.
        attempt_deadline_s: for one attempt.
        max_retries: further requests per attempt where nothing was generated.
        max_connections: to each server at the same time.
    """

    asks_n: bool = True
    streams: bool = False
    body: Mapping[str, Any] = field(default_factory=dict)
    reviser: str | None = None
    attempt_deadline_s: float = 60.0
    max_retries: int = 3
    max_connections: int = 256


@dataclass(frozen=True, kw_only=True)
class LadderBuilder:
    """Builds the ladder that a controller is deployed on.

    Attributes:
        checkpoint: of the controller.
        other_weights: called where a model in this process is not the one of its training.
        adapters: directories of the small model's adapters, by name; where the checkpoint says
            when None.
        upstream: how servers are asked.
        prompts: what models are asked with, see `read_prompts`; the checkpoint's
            where nothing is said.
        max_new_tokens: longest attempt; None for what the controller was trained with.
        observe: told the outcome of each request to a server.
    """

    checkpoint: Checkpoint
    other_weights: OtherWeights
    adapters: Mapping[str, str | Path] | None = None
    upstream: Upstream = field(default_factory=Upstream)
    prompts: Sequence[str] = ()
    max_new_tokens: int | None = None
    observe: Callable[[str, str, float], None] = lambda *_: None

    def build(self, places: Sequence[ModelPlace]) -> Ladder:
        """The ladder, one backend per rung.

        Args:
            places: of the models, the small one's first.

        Raises:
            BackendError: a model cannot be loaded.
            CheckpointError: the controller inside attempts is for other models.
        """
        prompts = read_prompts(self.prompts, [place.name for place in places])
        trained = self.checkpoint.models
        return Ladder(
            [
                (self._served if place.is_server else self._loaded)(
                    place, rung, prompts.get(place.name, trained[rung].prompt)
                )
                for rung, place in enumerate(places)
            ]
        )

    def _longest(self, rung: int) -> int:
        return self.max_new_tokens or self.checkpoint.config.max_completion_tokens[rung]

    def _served(self, place: ModelPlace, rung: int, prompt: tuple[Message, ...]) -> Backend:
        from controller.backends.openai.backend import OpenAIBackend
        from controller.backends.openai.endpoint import Endpoint

        trained, upstream = self.checkpoint.models[rung], self.upstream
        adapted = any(adapter.name == "reviser" for adapter in trained.adapters)
        endpoint = Endpoint(
            base_url=place.url or "",
            model=place.model or "",
            name=place.name,
            api_key=os.environ.get(KEY_VARIABLE.format(rung=rung), "none"),
            reviser=upstream.reviser if rung == 0 else None,
            # A policy that learned with a reviser's adapter must not revise without it.
            revises=rung == 0 and (upstream.reviser is not None or not adapted),
            parameters=trained.parameters,
            max_new_tokens=self._longest(rung),
            asks_n=upstream.asks_n,
            streams=upstream.streams,
            body={**_decoding(trained), **upstream.body},
            wants_logprobs=self.checkpoint.config.reads_logprobs,
            prompt=prompt,
            prompt_length=trained.prompt_length if prompt == trained.prompt else None,
            tokenize=_tokenizer(self.checkpoint, rung),
            trained_for=trained,
            attempt_deadline_s=upstream.attempt_deadline_s,
            max_retries=upstream.max_retries,
            max_connections=upstream.max_connections,
        )
        return OpenAIBackend(
            endpoint, answers=answer_kind(self.checkpoint.answers), observe=self.observe
        )

    def _loaded(self, place: ModelPlace, rung: int, prompt: tuple[Message, ...]) -> Backend:
        from controller.backends.base import recorded_temperature
        from controller.backends.local.adapters import load_adapters
        from controller.backends.local.backend import TransformersBackend, load_model
        from controller.backends.local.segmented import with_segments
        from controller.backends.threaded import ThreadedBackend

        loaded, trained = load_model(place, 0), self.checkpoint.models[rung]
        same = not trained.digest or loaded.digest == trained.digest
        if not same:
            self.other_weights(trained, place.text, loaded.digest)
        adapters = self.checkpoint.located_adapters(self.adapters) if rung == 0 and same else {}
        if adapters:
            loaded = load_adapters(loaded, adapters)
        known = {adapter.name for adapter in loaded.adapters}
        backend = TransformersBackend(
            [replace(loaded, prompt=prompt)],
            temperature=recorded_temperature(self.checkpoint.models),
            max_new_tokens=self._longest(rung),
            answers=answer_kind(self.checkpoint.answers),
        )
        return ThreadedBackend(
            with_segments(self.checkpoint, backend) if rung == 0 else backend,
            reads_prompts=rung == 0,
            revises=rung == 0 and {adapter.name for adapter in trained.adapters} <= known,
        )


def model_places(models: Sequence[str | Path], checkpoint: Checkpoint) -> tuple[ModelPlace, ...]:
    """Where the models of a controller are, one per rung; its own have the names of its training.

    Args:
        models: as they were named, the small one first.
        checkpoint: whose names servers are asked for where nothing else is said.

    Raises:
        ConfigError: too few, too many, or one that is not there.
    """
    names = [model.name for model in checkpoint.models]
    if len(models) != len(names):
        raise ConfigError(
            f"models: expected {len(names)}, as {checkpoint.path} was trained for {names}, found "
            f"{[str(model) for model in models]}"
        )
    places = [ModelPlace.parse(model, model=n) for model, n in zip(models, names, strict=True)]
    if tuple(models) == checkpoint.located_models():
        # One file may have been recorded under several names.
        places = [replace(place, name=n) for place, n in zip(places, names, strict=True)]
    return tuple(places)


def _decoding(trained: ModelSpec) -> dict[str, Any]:
    """Fields of a request that make a server sample as it did for the traces, if that is known."""
    return {} if trained.temperature is None else {"temperature": trained.temperature}


def _tokenizer(checkpoint: Checkpoint, rung: int) -> Callable[[Sequence[Message]], int] | None:
    """Counts chats by the tokenizer of the model that the checkpoint names, if it lies here."""
    paths = checkpoint.model_paths
    directory = (checkpoint.path or Path()) / paths[rung] if paths else Path()
    if not (directory / "tokenizer_config.json").exists():
        return None
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory.resolve(), local_files_only=True)
    if not tokenizer.chat_template:
        return None

    def count(chat: Sequence[Message]) -> int:
        ids = tokenizer.apply_chat_template(
            list(chat), add_generation_prompt=True, return_dict=False
        )
        return len(ids)

    return count


def deployed_process(checkpoint: Checkpoint, backend: Backend) -> EpisodeConfig:
    """The decision process of a checkpoint on these models.

    What the models cannot do falls away: reading prompt states, revising. Models must
    stand on as many rungs as in training.

    Raises:
        ConfigError: the ladder has another length.
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
