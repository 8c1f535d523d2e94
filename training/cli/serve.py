"""`allot serve`, `allot playground` and `allot key`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from controller.bundled import bundled
from controller.server.config import ServeConfig
from training.cli.flags import with_flags


@with_flags(ServeConfig)
def serve(config: ServeConfig) -> None:
    """Serve an OpenAI-compatible API in front of two or more models."""
    from controller.server.run import serve as run
    from training.learn.threads import limit_threads

    limit_threads()
    run(config)


def playground(
    controller: Annotated[
        Path, typer.Option(help="Checkpoint.", show_default="the bundled one")
    ] = bundled("controller"),
    port: Annotated[int, typer.Option(help="0 for any that is free.")] = 8080,
) -> None:
    """Watch a controller decide, on a page that asks the models of its checkpoint."""
    from controller.server.run import serve as run
    from training.learn.threads import limit_threads

    limit_threads()
    config = ServeConfig(controller=controller, port=port, log=Path(os.devnull))
    run(config, lambda url: print(f"open {url} in a browser; Ctrl-C ends it", flush=True))


def key(name: Annotated[str, typer.Argument(help="Who will use it.")]) -> None:
    """Make an API key: the key for its owner, the line for the service's file."""
    from controller.server.keys import key_digest, new_key

    made = new_key()
    print(f"key   {made}\nline  {name} {key_digest(made)}")
