"""Checkpoints on the Hugging Face Hub: what is uploaded, downloaded and believed.

The language models are not part of a checkpoint; see docs/decisions/0014.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import HfApi, ModelCard, snapshot_download
from huggingface_hub.errors import DryRunError
from tqdm.auto import tqdm

from controller.card import FIGURES_FILE, FRONTIER_FILE, file_digest, model_card, read_figures
from controller.checkpoint import (
    HUB_SCHEME,
    MAX_FILE_BYTES,
    SETTINGS_FILE,
    WEIGHTS_FILE,
    AnyCheckpoint,
    load_any,
    save_checkpoint,
    seen_from,
)
from controller.errors import CheckpointError

_DOWNLOADED = (SETTINGS_FILE, WEIGHTS_FILE, FIGURES_FILE, FRONTIER_FILE, "README.md")


def from_hub(name: str | Path, **options: Any) -> AnyCheckpoint:
    """Read a checkpoint from a directory or the Hub (`user/name`), trusting nothing in it.

    `options` are those of `huggingface_hub.snapshot_download`, such as `revision` and `token`.

    Raises:
        CheckpointError: it is neither, cannot be downloaded, or is damaged or hostile.
    """
    path = Path(name)
    return load_any(path if path.is_dir() else _download(str(name), **options))


def push_to_hub(
    checkpoint: AnyCheckpoint,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    branch: str | None = None,
    create_pr: bool = False,
    commit_message: str = "Push a controller",
    **metadata: Any,
) -> str:
    """Upload a checkpoint with its card and figures, in one commit.

    Where models lie in this machine's directories is left out.

    Args:
        checkpoint: to upload.
        repo_id: repository as in `user/name`; made if missing.
        private: whether only its owner may see it; the account's default if None.
        token: of the Hub; the one of `hf auth login` when None.
        branch: to commit to; the main one if None.
        create_pr: open a pull request instead.
        commit_message: of the commit.
        metadata: of the card; see `controller.card.model_card`.

    Returns:
        Address of the commit.
    """
    on_hub = all(path.startswith(HUB_SCHEME) for path in checkpoint.model_paths)
    shared = replace(
        checkpoint,
        model_paths=checkpoint.model_paths if on_hub else (),
        adapter_paths={},
        segment_controller=None,
    )
    api = HfApi(token=token)
    repo = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    with TemporaryDirectory() as folder:
        save_copy(shared, Path(folder), **metadata)
        commit = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            commit_message=commit_message,
            revision=branch,
            create_pr=create_pr,
        )
    return str(commit)


def save_copy(checkpoint: AnyCheckpoint, directory: Path | str, **metadata: Any) -> None:
    """Save a checkpoint with its card and figures so that it still finds its models.

    `metadata` is that of `model_card`; the directory is created if missing.
    """
    source, directory = checkpoint.path, Path(directory)

    def moved(path: str) -> str:
        return path if source is None else seen_from(directory, source, path)

    under = checkpoint.segment_controller
    copy = replace(
        checkpoint,
        model_paths=tuple(map(moved, checkpoint.model_paths)),
        adapter_paths={n: moved(p) for n, p in checkpoint.adapter_paths.items()},
        segment_controller=under and (moved(under[0]), under[1]),
    )
    save_checkpoint(copy, directory, str(card_of(checkpoint, **metadata)))
    if source is None or source.resolve() == directory.resolve():
        return
    for name in (FIGURES_FILE, FRONTIER_FILE):
        if (source / name).exists():
            shutil.copyfile(source / name, directory / name)


def card_of(checkpoint: AnyCheckpoint, **metadata: Any) -> ModelCard:
    """The card, from a checkpoint and the figures of its very weights; see `model_card`.

    Raises:
        CheckpointError: the figures are damaged.
    """
    figures = read_figures(checkpoint.path) if checkpoint.path else None
    if checkpoint.path and figures:
        current = file_digest(checkpoint.path / WEIGHTS_FILE)
        figures = figures if current in figures.weights else None
    return model_card(checkpoint, figures, **metadata)


def _download(repo_id: str, **options: Any) -> Path:
    """Fetch the files of a checkpoint into the Hub's cache, unless they are too large to be one."""
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
