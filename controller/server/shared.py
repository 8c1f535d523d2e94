"""What processes and machines share in Redis or Valkey, and what each does alone without it."""

from __future__ import annotations

import logging
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis

from controller.backends.identity import text_digest
from controller.backends.openai.resilience import CircuitBreaker
from controller.errors import ConfigError
from controller.policy.pricing import Tally
from controller.server.logs import tell

_MOST = 10_000
_TIMEOUT_S, _PAUSE_S = 0.1, 1.0
"""The event loop waits for the store, so not for long, and after a failure not at once again."""
_FRESH_S = 0.25
"""How long what others have done may be unknown."""
ROOM_LASTS_S = 10.0
"""The questions of a process that has not been heard of for so long are over."""


class Store:
    """A server of Redis or Valkey; every step is one script that it runs, by its own clock.

    While `redis://HOST:PORT/DB` is away, there are escalations if it `fails_open`.

    Raises:
        ConfigError: the URL is none.
    """

    def __init__(self, url: str, *, fails_open: bool) -> None:
        try:
            client = redis.Redis.from_url(
                url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S
            )
        except ValueError as error:
            raise ConfigError(f"shared: expected redis://HOST:PORT/DB: {error}") from None
        self._run = client.register_script(Path(__file__).with_name("shared.lua").read_text())
        self.fails_open, self._not_before = fails_open, 0.0
        self.notes: tuple[str, ...] = ()
        """What people should know."""

    def ask(self, wanted: str, key: str, *args: str | float) -> Any:
        """What a step of `shared.lua` returns; None while the store is away."""
        if time.monotonic() < self._not_before:
            return None
        try:
            found = self._run(keys=[f"allot:{wanted}:{key}"], args=[wanted, *args])
        except (redis.RedisError, OSError) as error:
            self._not_before = time.monotonic() + _PAUSE_S
            self._tell(type(error).__name__)
            return None
        self._tell(None)
        return found

    def _tell(self, why: str | None) -> None:
        if bool(self.notes) == bool(why):
            return
        event = "shared_store_away" if why else "shared_store_back"
        tell(event, logging.WARNING, why=why)
        then = "are not kept" if self.fails_open else "let nothing through"
        told = f"limits on escalations {then}, as the store of --shared is away"
        self.notes = (told,) if why else ()


class Buckets:
    """Token buckets by name, each with up to a minute's worth, refilled evenly.

    With a store they are everybody's; while that is away they are full or empty, as chosen.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, store: Store | None = None
    ) -> None:
        self._clock, self._store = clock, store
        self._known: OrderedDict[str, tuple[float, float]] = OrderedDict()  # left, when

    def take(self, name: str, per_minute: float, taken: int = 1) -> float:
        """Take tokens, or none to look; how many are left then."""
        if self._store:
            told = self._store.ask("take", name, per_minute, taken)
            away = per_minute if self._store.fails_open else 0.0
            return away if told is None else float(told)
        now = self._clock()
        left, seen = self._known.pop(name, (per_minute, now))
        left = min(per_minute, left + (now - seen) * per_minute / 60) - taken
        self._known[name] = left, now
        if len(self._known) > _MOST:
            self._known.popitem(last=False)
        return left


class Room:
    """Questions in flight, of which there may be so many in all processes that share a store.

    Without one, or while it is away, each of the workers has an even share.
    """

    def __init__(self, most: int, workers: int = 1, store: Store | None = None) -> None:
        self.taken, self._most, self._share = 0, most, -(-most // workers)
        self._store, self._member = store, uuid.uuid4().hex

    def enter(self) -> bool:
        """Whether there is room for one more, which is then taken."""
        told = self._ask(self.taken + 1, self._most)
        fits = self.taken < self._share if told is None else bool(told)
        self.taken += fits
        return fits

    def leave(self) -> None:
        """One is over."""
        self.taken -= 1
        self.tell()

    def tell(self) -> None:
        """Say that this process is alive, to whom it concerns."""
        self._ask(self.taken, float("inf"))

    def _ask(self, taken: int, most: float) -> Any:
        asked = "room", "all", self._member, taken, most, ROOM_LASTS_S
        return self._store.ask(*asked) if self._store else None


class SharedBreaker(CircuitBreaker):
    """Opens for all processes at once, and lets one of them probe.

    Each process knows of the others what it heard last, and goes on alone while the store is away.
    """

    def __init__(
        self, store: Store, name: str, on_change: Callable[[str | None], None] = lambda why: None
    ) -> None:
        super().__init__(on_change=on_change)
        self._store, self._name, self._stale_at = store, name, 0.0

    @property
    def allows(self) -> bool:
        """See `CircuitBreaker.allows`."""
        if self._clock() >= self._stale_at:
            self._ask("look")
        return super().allows

    def admit(self) -> bool:
        """See `CircuitBreaker.admit`."""
        if self.allows and self._in_a_row < self.failures:
            return True
        found = self._ask("admit")
        return super().admit() if found is None else bool(found)

    def succeeded(self) -> None:
        """See `CircuitBreaker.succeeded`."""
        if self._in_a_row:
            super().succeeded()
            self._ask("succeeded")

    def failed(self, why: str = "") -> None:
        """See `CircuitBreaker.failed`."""
        super().failed(why)
        self._ask("failed", why)

    def _ask(self, event: str, why: str = "elsewhere") -> int | None:
        """Tell the store, and take over what it says; whether a request may go out."""
        found = self._store.ask("breaker", self._name, event, self.failures, self.cooldown_s)
        self._stale_at = self._clock() + _FRESH_S
        if found is None:
            return None
        self._count(int(found[0]), why)
        self._not_before = self._clock() + float(found[1])
        return int(found[2])


class SharedTally(Tally):
    """Adds up over all processes; what is counted while the store is away is added later."""

    def __init__(self, store: Store, name: str) -> None:
        super().__init__()
        self._store, self._name, self._stale_at = store, name, 0.0
        self._member, self._own = uuid.uuid4().hex, Tally()

    def add(self, questions: int, spent: float) -> None:
        """See `Tally.add`."""
        super().add(questions, spent)
        self._own.add(questions, spent)
        self._tell()

    def sums(self) -> tuple[int, float]:
        """See `Tally.sums`."""
        if time.monotonic() >= self._stale_at:
            self._tell()
        return super().sums()

    def _tell(self) -> None:
        found = self._store.ask("add", self._name, self._member, *self._own.sums())
        self._stale_at = time.monotonic() + _FRESH_S
        if found is not None:
            self._questions, self._spent = int(found[0]), float(found[1])


class Shared:
    """What a process keeps by itself, or with all processes that have its store.

    Workers have an even share each of what may be in flight.
    """

    def __init__(self, workers: int = 1, store: Store | None = None) -> None:
        self._workers, self._store = workers, store
        self._tallies: dict[str, Tally] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        """What people should know."""
        return self._store.notes if self._store else ()

    def buckets(self) -> Buckets:
        """Of escalations."""
        return Buckets(store=self._store)

    def room(self, most: int) -> Room:
        """For questions in flight."""
        return Room(most, self._workers, self._store)

    def breaker(self, name: str, model: str) -> CircuitBreaker:
        """Of a model behind a server, a name for both, and what the log calls the model."""

        def on_change(why: str | None) -> None:
            if why is None:
                tell("model_is_back", model=model)
            else:
                tell("model_is_away", logging.WARNING, model=model, why=why)

        if self._store is None:
            return CircuitBreaker(on_change=on_change)
        # Addresses may have passwords in them.
        return SharedBreaker(self._store, text_digest(name), on_change)

    def tally(self, name: str) -> Tally:
        """Of what questions cost; the same for the same name, as of a policy that is read anew."""
        if self._store:
            return SharedTally(self._store, name)
        return self._tallies.setdefault(name, Tally())
