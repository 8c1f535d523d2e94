"""`allot serve` and `allot key`."""

from __future__ import annotations

from typing import Annotated

import typer

from controller.server.config import ServeConfig
from training.cli.flags import with_flags


@with_flags(ServeConfig)
def serve(config: ServeConfig) -> None:
    """Serve an OpenAI-compatible API in front of two or more models."""
    from controller.server.run import serve as run
    from training.learn.threads import limit_threads

    limit_threads()
    run(config)


def key(name: Annotated[str, typer.Argument(help="Who will use it.")]) -> None:
    """Make an API key: the key for its owner, the line for the service's file."""
    from controller.server.keys import key_digest, new_key

    made = new_key()
    print(f"key   {made}\nline  {name} {key_digest(made)}")
