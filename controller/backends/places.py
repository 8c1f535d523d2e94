"""Where a model is, as one word says it: a directory, a GGUF file, the Hub, or a server.

Reading such a word imports nothing heavy and asks no network, so that what is wrong with it is
said at once.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from controller.errors import ConfigError

_URLS = ("http://", "https://")
_GGUF_MAGIC, _GGUF_SUFFIX = b"GGUF", ".gguf"
_NAMED = re.compile(r"(?P<name>[^=/:#\s]+)=(?P<place>.+)")
_HUB_ID = re.compile(r"(?P<owner>\w[\w.-]*)/\w[\w.-]*")
_OWN_FOLDER = "checkpoints"
"""Where models lie that nobody names; no owner on the Hub is meant by it."""

EXPECTED = (
    "expected a directory with config.json, a GGUF file, a hub id (owner/name) or URL#MODEL of a "
    "server"
)


class PlaceKind(StrEnum):
    """What a model is read from or asked through."""

    DIRECTORY = "directory"
    GGUF = "gguf"
    HUB = "hub"
    SERVER = "server"


@dataclass(frozen=True, kw_only=True)
class ModelPlace:
    """A model, and the name that traces and tables know it by.

    Attributes:
        text: that it was read from, without the name in front.
        name: NAME of `NAME=PLACE`, so that one model can be asked in several ways; else of the
            directory or file, the hub id, or what the server calls the model.
        kind: decides which of the others is set.
        path: of a directory or GGUF file, absolute.
        hub_id: as in `owner/name`.
        url: of an OpenAI-compatible server, up to and including `/v1`.
        model: that the server is asked for.
    """

    text: str
    name: str
    kind: PlaceKind
    path: Path | None = None
    hub_id: str | None = None
    url: str | None = None
    model: str | None = None

    @property
    def is_server(self) -> bool:
        """Whether requests are sent to it."""
        return self.kind is PlaceKind.SERVER

    @property
    def is_local(self) -> bool:
        """Whether it is loaded into this process."""
        return not self.is_server

    @property
    def source(self) -> str:
        """Path or hub id, as loaders take it; of local models only."""
        return str(self.path or self.hub_id)

    @classmethod
    def parse(cls, text: str | Path, *, model: str | None = None) -> ModelPlace:
        """From `[NAME=]PLACE`.

        Args:
            text: as typed; a `Path` is never a hub id.
            model: that a server is asked for where the text names none.

        Raises:
            ConfigError: nothing is there, or something other than a model.
        """
        found = _NAMED.fullmatch(str(text)) if isinstance(text, str) else None
        name, place = (found["name"], found["place"]) if found else (None, str(text))
        if place.startswith(_URLS):
            return _server(name, place, model)
        path = Path(place).expanduser()
        if place and path.exists():
            kind = _local_kind(path)
            own = path.resolve().name if kind is PlaceKind.DIRECTORY else path.stem
            return cls(text=place, name=name or own, kind=kind, path=path.resolve())
        _check_hub_id(place, is_path=isinstance(text, Path))
        return cls(text=place, name=name or place, kind=PlaceKind.HUB, hub_id=place)


def _server(name: str | None, place: str, model: str | None) -> ModelPlace:
    url, _, asked = place.partition("#")
    asked = asked or model or ""
    if not asked:
        raise ConfigError(
            f"model: expected URL#MODEL, found {place!r}; say which of the server's models is "
            "meant, as /v1/models lists them"
        )
    return ModelPlace(
        text=place, name=name or asked, kind=PlaceKind.SERVER, url=url.rstrip("/"), model=asked
    )


def _local_kind(path: Path) -> PlaceKind:
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ConfigError(
                f"model: expected config.json in the directory {path}, found none; name the "
                "directory that save_pretrained wrote, or the GGUF file itself"
            )
        return PlaceKind.DIRECTORY
    with path.open("rb") as file:
        magic = file.read(len(_GGUF_MAGIC))
    if magic != _GGUF_MAGIC:
        raise ConfigError(
            f"model: expected a GGUF file, found {path}, which begins with {magic!r}; name a GGUF "
            "file, or the directory of a safetensors one"
        )
    return PlaceKind.GGUF


def _check_hub_id(place: str, *, is_path: bool) -> None:
    """Raise unless a word that is no path can be a name on the Hub."""
    if "://" in place or "#" in place or re.match(r"[\w.-]+:\d", place):
        raise ConfigError(f"model: expected http:// or https:// before a server, found {place!r}")
    found = None if is_path or place.endswith(_GGUF_SUFFIX) else _HUB_ID.fullmatch(place)
    if found is None:
        raise ConfigError(f"model: {EXPECTED}, found no such path: {place!r}")
    owner = found["owner"]
    if owner == _OWN_FOLDER or Path(owner).is_dir():
        raise ConfigError(
            f"model: {EXPECTED}, found no {place!r} in the folder {owner!r}; check the name, or "
            "run this where the folder is"
        )


@dataclass(frozen=True, kw_only=True)
class NamedModels:
    """The models of a ladder as options name them; none where they do not.

    Attributes:
        small: directory, GGUF file, hub id or URL#MODEL of a server; default: the checkpoint's.
        large: the same; repeat for a longer ladder.

    Raises:
        ConfigError: only one of the options, or a model that is not there.
    """

    small: str | None = None
    large: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for model in self.all:
            # A server is asked for the model that the controller was trained for by default.
            ModelPlace.parse(model, model="default")
        if (self.small is None) != (not self.large):
            raise ConfigError("models: expected both --small and --large, or neither")

    @property
    def all(self) -> tuple[str, ...]:
        """The small model, then the larger ones."""
        return (*([] if self.small is None else [self.small]), *self.large)


@dataclass(frozen=True, kw_only=True)
class Upstream:
    """How models behind servers are asked.

    Attributes:
        attempt_deadline: minutes that one attempt by a server may take.
        upstream_n: ask servers for several choices in one request, where they make them.
        upstream_stream: stream from servers: cancelled tokens are counted.
        upstream_body: JSON object: further fields of each request to servers.
        reviser: model on the small model's server that REVISE asks.

    Raises:
        ConfigError: the body is something else.
    """

    attempt_deadline: float = 1.0
    upstream_n: bool = True
    upstream_stream: bool = False
    upstream_body: str = "{}"
    reviser: str | None = None

    def __post_init__(self) -> None:
        _ = self.body

    @property
    def body(self) -> dict[str, Any]:
        """The further fields."""
        try:
            found = json.loads(self.upstream_body)
        except json.JSONDecodeError:
            found = None
        if not isinstance(found, dict):
            raise ConfigError(
                f"upstream-body: expected a JSON object, found {self.upstream_body!r}"
            )
        return found
