"""Arms as options and files name them: where a model is, and how it is asked.

A model is a directory, a GGUF file, on the Hub, or behind a server.

Reading such a word imports nothing heavy and asks no network, so that what is wrong with it is
said at once.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from controller.backends.prompts import Message, read_prompt
from controller.bundled import bundled
from controller.errors import ConfigError, check_range
from controller.files import read_yaml
from controller.process.actions import Tier

LOOPBACK = ("127.0.0.1", "::1", "localhost")
"""Names of this machine."""

_URLS = ("http://", "https://")
_GGUF_MAGIC, _GGUF_SUFFIX = b"GGUF", ".gguf"
_NAMED = re.compile(r"(?P<name>[^=/:#\s]+)=(?P<place>.+)")
_OPTIONS = ("tier", "family", "body", "prompt", "revises", "verifies", "cached")
_OPTION = re.compile(rf",({'|'.join(_OPTIONS)})=")
_LIKE_OPTION = re.compile(r",\s*([A-Za-z_-]+)\s*=")
_LOCAL_FIELDS = {"temperature", "num_loops"}
_HUB_ID = re.compile(
    r"(?P<repo>(?P<owner>\w[\w.-]*)/\w[\w.-]*)(?:/(?P<file>(?:\w[\w.-]*/)*\w[\w.-]*\.gguf))?"
)
_OWN_FOLDER = "checkpoints"
"""Where models lie that nobody names; no owner on the Hub is meant by it."""

_MENU_FILE = "menu.yaml"
MOST_LOOPS = 128
"""How often layers may be gone through; more is a slip of the pen."""

EXPECTED = (
    "expected a directory with config.json, a GGUF file, a hub id (owner/name, or "
    "owner/name/FILE.gguf) or URL#MODEL of a server"
)


@dataclass(frozen=True, kw_only=True)
class ModelPlace:
    """A model, and the name that traces and tables know it by.

    Attributes:
        text: that it was read from, without the name in front; of one on the Hub its id there,
            or that of its repository and a GGUF file in it.
        name: NAME of `NAME=PLACE`, so that one model can be asked in several ways; else of the
            directory or file, the hub id, or what the server calls the model.
        path: of a directory or GGUF file, absolute; None for others.
        url: of an OpenAI-compatible server, up to and including `/v1`; None for others.
        model: that the server is asked for.
        tier: whether it is one to sample from or one to escalate to; None where that follows from
            its option.
        family: whose agreement counts as one opinion; None for that of its name.
        body: further fields of each request; of models in this process `temperature`, and
            `num_loops` of those whose layers can be gone through several times.
        prompt: chat that it is asked with; empty where another option says it.
        revises: whether it is to revise attempts of all arms, in a recording.
        verifies: whether it is the one that says of attempts of all arms if they are right.
        cached: what a prompt token that its server found cached costs, of what another one does;
            None where all cost the same.
    """

    text: str
    name: str
    path: Path | None = None
    url: str | None = None
    model: str | None = None
    tier: Tier | None = None
    family: str | None = None
    body: Mapping[str, Any] = field(default_factory=dict, hash=False)
    prompt: tuple[Message, ...] = field(default=(), hash=False)
    revises: bool = False
    verifies: bool = False
    cached: float | None = None

    def __post_init__(self) -> None:
        if not self.is_server and self.body.keys() - _LOCAL_FIELDS:
            raise ConfigError(
                f"arm {self.name}: expected no fields but temperature and num_loops in the body "
                f"of a model in this process, found {sorted(self.body)}"
            )
        if not self.is_server and self.cached is not None:
            raise ConfigError(
                f"arm {self.name}: expected cached of a model behind a server, whose prompts cost "
                "less once they are cached; found it of one in this process"
            )
        heat = self.body.get("temperature", 0)
        if isinstance(heat, bool) or not isinstance(heat, int | float) or not 0 <= heat <= 10:
            raise ConfigError(f"arm {self.name}: expected a temperature of 0 to 10, found {heat!r}")
        loops = self.body.get("num_loops", 1)
        if not self.is_server and (type(loops) is not int or not 1 <= loops <= MOST_LOOPS):
            raise ConfigError(
                f"arm {self.name}: expected num_loops of 1 to {MOST_LOOPS}, found {loops!r}"
            )

    @property
    def is_server(self) -> bool:
        """Whether requests are sent to it; others are loaded into this process."""
        return self.url is not None

    @property
    def is_gguf(self) -> bool:
        """Whether it is a file and no directory."""
        return self.path is not None and self.path.is_file()

    @property
    def hub_file(self) -> tuple[str, str] | None:
        """Repository on the Hub and GGUF file in it; None for others."""
        found = None if self.path or self.url else _HUB_ID.fullmatch(self.text)
        return (found["repo"], found["file"]) if found and found["file"] else None

    @property
    def source(self) -> str:
        """Path or hub id, as loaders take it; of local models only."""
        return str(self.path or self.text)

    @classmethod
    def parse(cls, text: str | Path, *, model: str | None = None) -> ModelPlace:
        """From `[NAME=]PLACE`, with any of the options of arms, as `,tier=TIER`, behind it.

        A `Path` is never a hub id. A server is asked for `model` where the text names none.

        Raises:
            ConfigError: nothing is there, or something other than a model; or an option is none.
        """
        if isinstance(text, str) and (parts := _OPTION.split(text))[1:]:
            names, said = parts[1::2], parts[2::2]
            options = dict(zip(names, said, strict=True))
            if len(options) < len(names):
                raise ConfigError(f"arm {parts[0]}: expected each option once, found {names}")
            _check_options(options.get("family", ""))
            return _with_options(cls.parse(parts[0], model=model), options)
        found = _NAMED.fullmatch(text) if isinstance(text, str) else None
        name, place = (found["name"], found["place"]) if found else (None, str(text))
        if place.startswith(_URLS):
            url, _, asked = place.partition("#")
            _check_options(asked or url)
            asked = asked or model or ""
            if not asked:
                raise ConfigError(
                    f"model: expected URL#MODEL, found {place!r}; say which of the server's models "
                    "is meant, as /v1/models lists them"
                )
            base = re.sub(r"(/chat/completions)?/*(?=\?|\Z)", "", url, count=1)
            return cls(text=place, name=name or asked, url=base, model=asked)
        path = Path(place).expanduser()
        if place and path.exists():
            _check_file(path)
            own = path.resolve().name if path.is_dir() else path.stem
            return cls(text=place, name=name or own, path=path.resolve())
        _check_options(place)
        _check_hub_id(place, is_path=isinstance(text, Path))
        return cls(text=place, name=name or place)


def _check_options(rest: str) -> None:
    """Raise where what is left of a word has an option that there is not."""
    if found := _LIKE_OPTION.search(rest):
        raise ConfigError(
            f"arm: expected options of {', '.join(_OPTIONS)}, found {found[1]!r} in {rest!r}"
        )


def _with_options(place: ModelPlace, options: Mapping[str, Any]) -> ModelPlace:
    """An arm with what is said of it beside its place; the body as JSON or a mapping."""
    arm, tier, prompt = place.name, options.get("tier"), options.get("prompt")
    if tier not in (None, *Tier):
        raise ConfigError(f"arm {arm}: expected the tier small or large, found {tier!r}")
    if isinstance(body := options.get("body", {}), str):
        body = json_object(f"arm {arm}: body", body)
    if not isinstance(body, Mapping):
        raise ConfigError(f"arm {arm}: expected a mapping as body, found {body!r}")
    return replace(
        place,
        tier=None if tier is None else Tier(tier),
        family=options.get("family"),
        body=body,
        prompt=read_prompt(prompt) if prompt else (),
        revises=_role(arm, "revises", options),
        verifies=_role(arm, "verifies", options),
        cached=_share(arm, options.get("cached")),
    )


def _role(arm: str, role: str, options: Mapping[str, Any]) -> bool:
    said = options.get(role, False)
    if said not in (True, False, "true", "false"):
        raise ConfigError(f"arm {arm}: expected {role} to be true or false, found {said!r}")
    return said in (True, "true")


def _share(arm: str, said: object) -> float | None:
    """A share from 0 to 1, as text or number."""
    try:
        share = None if said is None else float(str(said))
    except ValueError:
        share = -1.0
    if share is not None and not 0 <= share <= 1:
        raise ConfigError(f"arm {arm}: expected a share of 0 to 1 as cached, found {said!r}")
    return share


def json_object(name: str, text: str) -> dict[str, Any]:
    """The JSON object that a setting of that name is; raises ConfigError if it is none."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise ConfigError(f"{name}: expected a JSON object, found {text!r}")
    return found


def menu_folder(path: Path) -> Path | None:
    """Where a menu lies that comes with allot, by its name in `checkpoints/`; None for a file."""
    folder = bundled(str(path))
    return folder if not path.is_file() and (folder / _MENU_FILE).exists() else None


def read_menu(path: Path) -> tuple[ModelPlace, ...]:
    """Arms of a YAML file: under `arms` a mapping each of `name`, `model` and options.

    A menu that comes with allot can be called by its name.

    Raises:
        ConfigError: the file has another form, or names an arm twice; see `ModelPlace.parse`.
    """
    folder = menu_folder(path)
    path = folder / _MENU_FILE if folder else path
    try:
        said = read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"menu {path}: expected a YAML file: {error}") from None
    entries = said.get("arms") if isinstance(said, dict) else None
    known = {"name", "model", *_OPTIONS}
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"menu {path}: expected a list of arms under 'arms', found {said!r:.80}")
    for entry in entries:
        if not isinstance(entry, dict) or not {"name", "model"} <= entry.keys() <= known:
            raise ConfigError(
                f"menu {path}: expected arms with name, model and any of {list(_OPTIONS)}, found "
                f"{entry!r:.200}"
            )
    return check_names(
        _with_options(
            ModelPlace.parse(f"{entry['name']}={entry['model']}", model=str(entry["name"])),
            {name: entry[name] for name in _OPTIONS if name in entry},
        )
        for entry in entries
    )


def check_names(places: Iterable[ModelPlace]) -> tuple[ModelPlace, ...]:
    """The same places; raises ConfigError if two have one name."""
    arms = tuple(places)
    names = [place.name for place in arms]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(
            f"models: expected distinct names, found {', '.join(names)}; give {sorted(twice)[0]} "
            "another name once, as in other=PLACE"
        )
    return arms


def _check_file(path: Path) -> None:
    """Raise unless a path is a model's directory or a GGUF file."""
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ConfigError(
                f"model: expected config.json in the directory {path}, found none; name the "
                "directory that save_pretrained wrote, or the GGUF file itself"
            )
        return
    with path.open("rb") as file:
        magic = file.read(len(_GGUF_MAGIC))
    if magic != _GGUF_MAGIC:
        raise ConfigError(
            f"model: expected a GGUF file, found {path}, which begins with {magic!r}; name a GGUF "
            "file, or the directory of a safetensors one"
        )


def _check_hub_id(place: str, *, is_path: bool) -> None:
    """Raise unless a word that is no path can be a name on the Hub."""
    if "://" in place or "#" in place or re.match(r"[\w.-]+:\d", place):
        raise ConfigError(f"model: expected http:// or https:// before a server, found {place!r}")
    found = None if is_path else _HUB_ID.fullmatch(place)
    if found is None or (place.endswith(_GGUF_SUFFIX) and not found["file"]):
        raise ConfigError(f"model: {EXPECTED}, found no such path: {place!r}")
    owner = found["owner"]
    if owner == _OWN_FOLDER or Path(owner).is_dir():
        raise ConfigError(
            f"model: {EXPECTED}, found no {place!r} in the folder {owner!r}; check the name, or "
            "run this where the folder is"
        )


@dataclass(frozen=True, kw_only=True)
class NamedModels:
    """The models of a menu as options name them; none where they do not.

    Attributes:
        small: directory, GGUF file, hub id or URL#MODEL of a server; default: the checkpoint's.
        large: the same.
        arm: NAME=PLACE of an arm of the controller, with any of
            ,tier=small|large ,family=NAME ,body=JSON ,prompt=FILE|TEXT ,cached=SHARE; repeat for
            each arm.
        menu: YAML file of such arms; or real, which comes with a controller of its own.

    Raises:
        ConfigError: only one of small and large, more than one way to name models, or a model that
            is not there.
    """

    small: str | None = None
    large: tuple[str, ...] = ()
    arm: tuple[str, ...] = ()
    menu: Path | None = None

    def __post_init__(self) -> None:
        for model in self.all:
            # A server is asked for the model that the controller was trained for by default.
            as_place(model, model="default")
        if (self.small is None) != (not self.large):
            raise ConfigError("models: expected both --small and --large, or neither")
        if sum(map(bool, (self.small, self.arm, self.menu))) > 1:
            raise ConfigError("models: expected one of --small and --large, --arm, or --menu")

    @cached_property
    def all(self) -> tuple[str | ModelPlace, ...]:
        """The small model, then the larger ones; or the arms in any order."""
        if self.menu is not None:
            return read_menu(self.menu)
        return (*([] if self.small is None else [self.small]), *self.large, *self.arm)

    @property
    def controller(self) -> Path:
        """Checkpoint that comes with these models, or with allot."""
        folder = self.menu and menu_folder(self.menu)
        return folder / "controller" if folder else bundled("controller")


def tell_downloads(places: Iterable[ModelPlace | None]) -> None:
    """Warn of the GGUF files that loading will fetch, since the Hub's cache lacks them."""
    files = {place.hub_file for place in places if place and place.hub_file}
    if not files:
        return
    from huggingface_hub import try_to_load_from_cache

    lacking = ["/".join(file) for file in sorted(files) if not try_to_load_from_cache(*file)]
    if lacking:
        warnings.warn(f"downloads from the Hub: {', '.join(lacking)}", stacklevel=2)


def as_place(where: str | Path | ModelPlace, *, model: str | None = None) -> ModelPlace:
    """A place as it was parsed already, or from text; see `ModelPlace.parse`."""
    return where if isinstance(where, ModelPlace) else ModelPlace.parse(where, model=model)


@dataclass(frozen=True, kw_only=True)
class Upstream:
    """How models behind servers are asked.

    Attributes:
        attempt_deadline: minutes that one attempt by a server may take, if its question has them.
        upstream_silence_s: seconds after which a server that writes nothing is given up on.
        upstream_n: ask servers for several choices in one request, where they make them.
        upstream_stream: stream from servers: slow is told from dead, cancelled tokens are counted.
        upstream_body: JSON object: further fields of each request to servers.
        reviser: model on the small model's server that REVISE asks.

    Raises:
        ConfigError: the body is something else, or a time is none.
    """

    attempt_deadline: float = 30.0
    upstream_silence_s: float = 60.0
    upstream_n: bool = True
    upstream_stream: bool = True
    upstream_body: str = "{}"
    reviser: str | None = None

    def __post_init__(self) -> None:
        check_range(self, ("attempt_deadline", "upstream_silence_s"), above=0)
        _ = self.body

    @property
    def body(self) -> dict[str, Any]:
        """The further fields."""
        return json_object("upstream-body", self.upstream_body)
