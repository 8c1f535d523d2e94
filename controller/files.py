"""Files that are there whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Call `write(temporary_path)`, then put the file in place in one move."""
    temporary = path.parent / f"{path.name}.tmp"
    try:
        write(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text, atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Write JSON, atomically."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def read_yaml(text: str) -> Any:
    """What YAML says. Raises yaml.YAMLError: it is none, or says a key of a mapping twice."""
    import yaml

    class Once(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key, _ in node.value:
                if (named := (key.tag, str(key.value))) in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"{key.value!r} for the second time", key.start_mark
                    )
                seen.add(named)
            return super().construct_mapping(node, deep)

    return yaml.load(text, Once)
