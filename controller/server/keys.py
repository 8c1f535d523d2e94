"""Who may ask: API keys, kept as digests."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from controller.errors import ConfigError

ANYONE = "anyone"
"""Caller of a service without keys."""

_LINE = re.compile(r"(?P<name>[\w.@-]{1,64})\s+(?P<digest>[0-9a-f]{64})")


def key_digest(key: str) -> str:
    """SHA-256 of a key, in hex; keys are random, so that no salt is needed."""
    return hashlib.sha256(key.encode()).hexdigest()


def new_key() -> str:
    """A random key."""
    return f"allot-{secrets.token_urlsafe(32)}"


def key_line(name: str, key: str) -> str:
    """A caller's line of the file; raises ConfigError for a name that it cannot hold."""
    line = f"{name} {key_digest(key)}"
    if not _LINE.fullmatch(line):
        raise ConfigError(f"name: expected up to 64 letters, digits, _.@ or -, found {name!r}")
    return line


class Keys:
    """Callers, by name, with the digest of their key; without any, anyone may ask."""

    def __init__(self, digests: Mapping[str, str] | None = None) -> None:
        self._digests = dict(digests or {})

    @classmethod
    def read(cls, path: Path) -> Keys:
        """From a file with lines `NAME SHA256`; `#` begins a comment.

        Raises:
            ConfigError: there is no such file, or one of another form.
        """
        try:
            lines = path.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: expected a file with keys: {error}") from None
        digests: dict[str, str] = {}
        for number, line in enumerate(lines, start=1):
            text = line.partition("#")[0].strip()
            if not text:
                continue
            found = _LINE.fullmatch(text)
            if found is None or found["name"] in digests:
                raise ConfigError(
                    f"{path}, line {number}: expected a new NAME and the SHA-256 of its key in "
                    "hex, as `allot key NAME` prints them"
                )
            digests[found["name"]] = found["digest"]
        if not digests:
            raise ConfigError(f"{path}: expected at least one key, found none")
        return cls(digests)

    def become(self, others: Keys) -> None:
        """Let in those alone whom others let in."""
        self._digests = others._digests

    @property
    def callers(self) -> list[str]:
        """Names of all who may ask."""
        return sorted(self._digests)

    @property
    def required(self) -> bool:
        """Whether a key is needed."""
        return bool(self._digests)

    def caller(self, authorization: str) -> str | None:
        """Who asks, from an Authorization header; None if the key is unknown.

        Every key is compared, in constant time each.
        """
        if not self._digests:
            return ANYONE
        scheme, _, key = authorization.partition(" ")
        found, digest = None, key_digest(key.strip())
        for name, known in self._digests.items():
            if hmac.compare_digest(known, digest):
                found = name
        return found if scheme.lower() == "bearer" else None
