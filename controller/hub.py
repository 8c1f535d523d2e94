"""Checkpoints on the Hugging Face Hub: what is uploaded, downloaded and believed."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from huggingface_hub import ModelCard, ModelHubMixin, snapshot_download
from huggingface_hub.errors import DryRunError
from tqdm.auto import tqdm

from controller.card import FRONTIER_FILE, TAGS, model_card
from controller.errors import CheckpointError
from controller.figures import FIGURES_FILE, read_figures, weights_digest

if TYPE_CHECKING:
    from controller.checkpoint import Checkpoint

HUB_SCHEME = "hf://"
"""Marks a model that lies on the Hub rather than in a directory."""

SETTINGS_FILE, WEIGHTS_FILE = "controller.json", "controller.safetensors"

_DOWNLOADED = (SETTINGS_FILE, WEIGHTS_FILE, FIGURES_FILE, FRONTIER_FILE, "README.md")
MAX_FILE_BYTES = 64 * 2**20


class HubMixin(ModelHubMixin, library_name="allot", tags=list(TAGS)):
    """`from_pretrained`, `save_pretrained` and `push_to_hub` of a checkpoint.

    The language models are not part of it; see docs/decisions/0014.
    """

    def __new__(cls, *_: Any, **__: Any) -> Self:
        """Without the mixin's own config.json: controller.json says everything."""
        return object.__new__(cls)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
        **_: Any,
    ) -> Self:
        """Read a checkpoint from a directory or from the Hub, trusting nothing in it.

        Args:
            pretrained_model_name_or_path: a directory, or a repository as in `user/name`.
            force_download: even what is in the cache.
            token: of the Hub; the one of `hf auth login` when None.
            cache_dir: of downloads.
            local_files_only: take what is in the cache and ask no server.
            revision: branch, tag or commit.

        Raises:
            CheckpointError: it is neither, cannot be downloaded, or is damaged or hostile.
        """
        from controller.checkpoint import load_checkpoint

        path = Path(pretrained_model_name_or_path)
        if not path.is_dir():
            path = download(
                str(pretrained_model_name_or_path),
                force_download=force_download,
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                revision=revision,
            )
        return cast(Self, load_checkpoint(path))

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the checkpoint with its card and figures, in one commit.

        Where models lie in this machine's directories is left out.

        Args:
            repo_id: repository as in `user/name`; made if missing.
            options: of `huggingface_hub.ModelHubMixin.push_to_hub`: `private`, `token`,
                `branch`, `create_pr`, `commit_message`, `model_card_kwargs`.

        Returns:
            Address of the commit.
        """
        checkpoint = cast("Checkpoint", self)
        on_hub = all(path.startswith(HUB_SCHEME) for path in checkpoint.model_paths)
        shared = replace(
            checkpoint,
            model_paths=checkpoint.model_paths if on_hub else (),
            adapter_paths={},
            inside=None,
        )
        return str(ModelHubMixin.push_to_hub(shared, repo_id, **options))

    def _save_pretrained(self, save_directory: Path) -> None:
        from controller.checkpoint import save_checkpoint

        checkpoint = cast("Checkpoint", self)
        source = checkpoint.path

        def moved(path: str) -> str:
            if source is None or path.startswith(HUB_SCHEME):
                return path
            return os.path.relpath((source / path).resolve(), save_directory.resolve())

        save_checkpoint(
            replace(
                checkpoint,
                model_paths=tuple(map(moved, checkpoint.model_paths)),
                adapter_paths={n: moved(p) for n, p in checkpoint.adapter_paths.items()},
                inside=checkpoint.inside and (moved(checkpoint.inside[0]), checkpoint.inside[1]),
            ),
            save_directory,
        )
        if source is None or source.resolve() == save_directory.resolve():
            return
        for name in (FIGURES_FILE, FRONTIER_FILE):
            if (source / name).exists():
                shutil.copyfile(source / name, save_directory / name)

    def generate_model_card(self, *_: Any, **metadata: Any) -> ModelCard:
        """The card, made from the checkpoint and from the figures of its very weights.

        Args:
            metadata: fields of `huggingface_hub.ModelCardData`, such as `license`.

        Raises:
            CheckpointError: the figures are damaged.
        """
        checkpoint = cast("Checkpoint", self)
        figures = read_figures(checkpoint.path) if checkpoint.path else None
        if checkpoint.path and figures:
            current = weights_digest(checkpoint.path / WEIGHTS_FILE)
            figures = figures if current in figures.weights else None
        return model_card(checkpoint, figures, **metadata)


def download(repo_id: str, **options: Any) -> Path:
    """Fetch the files of a checkpoint from the Hub, unless they are too large to be one.

    Args:
        repo_id: repository as in `user/name`.
        options: of `huggingface_hub.snapshot_download`.

    Returns:
        Directory in the Hub's cache.

    Raises:
        CheckpointError: no such directory or repository, no connection, or a file is too large.
    """
    options["allow_patterns"] = list(_DOWNLOADED)
    try:
        large = _too_large(repo_id, options)
        if not large:
            return Path(snapshot_download(repo_id, **options))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{repo_id}: expected a directory or a repository on the Hub: {error}"
        ) from None
    raise CheckpointError(f"{repo_id}: expected at most {MAX_FILE_BYTES} bytes in {large}")


class _NoBar(tqdm):  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "disable": True})


def _too_large(repo_id: str, options: dict[str, Any]) -> list[str]:
    try:
        files = snapshot_download(repo_id, dry_run=True, tqdm_class=_NoBar, **options)
    except DryRunError:  # no connection: the cache may have it
        return []
    return [file.filename for file in files if file.file_size > MAX_FILE_BYTES]
