"""Adapters on the small model's weights: LoRA through peft, mixed row by row in one batch.

An adapter is a directory that peft wrote (adapter_config.json, adapter_model.safetensors),
with `allot.json`, which names the weights that it was trained on, and for a verifier
`score.safetensors`, the head that reads its last hidden state.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from controller.backends.batches import batches_by_length, padded
from controller.backends.local_model import DIGEST_LENGTH, LocalModel
from controller.errors import BackendError
from controller.prompts import VERIFIER
from controller.types import AdapterSpec

if TYPE_CHECKING:
    from peft import PeftModel

BASE = "__base__"
"""What peft calls the model without an adapter."""

_NOTES, _WEIGHTS, _SCORE = "allot.json", "adapter_model.safetensors", "score.safetensors"


@dataclass(frozen=True, kw_only=True)
class ScoreHead:
    """From a verifier's last hidden state to the probability that an attempt is right.

    What the writer itself thought of its tokens is known for free and tells apart attempts
    at the same question, so it takes part where it is known.

    Attributes:
        weight: (H,), makes a raw score of a hidden state.
        calibration: (2, 4): what raw score, mean and least log-probability are multiplied
            by, and a constant; first where log-probabilities are known, then where not.
    """

    weight: Tensor
    calibration: Tensor

    def probability(self, hidden: Tensor, logprobs: Tensor) -> Tensor:
        """From hidden states (B, H) and mean and least log-probabilities (B, 2), (B,).

        Log-probabilities that are not known are NaN.
        """
        unknown = logprobs.isnan().any(1)  # (B,)
        columns = (
            (hidden.float() @ self.weight.to(hidden.device))[:, None],
            torch.where(unknown[:, None], 0.0, logprobs),
            torch.ones_like(logprobs[:, :1]),
        )
        features = torch.cat(columns, 1)  # (B, 4)
        return torch.sigmoid((features * self.calibration[unknown.long()]).sum(1))


def forward(model: Any, adapters: Sequence[str], **inputs: Any) -> Any:
    """One forward pass, each row through its own adapter.

    Args:
        model: with or without adapters.
        adapters: name per row, `BASE` for none.
        inputs: of the model.
    """
    if not getattr(model, "peft_config", None):
        return model(**inputs)
    return model(**inputs, adapter_names=list(adapters))


@torch.inference_mode()
def last_states(model: Any, texts: Sequence[tuple[int, ...]], adapter: str) -> Tensor:
    """Last hidden state at the last token of each text, (B, H) float32, through an adapter."""
    states: dict[int, Tensor] = {}
    for batch in batches_by_length([len(text) for text in texts]):
        inputs, lengths = padded([texts[i] for i in batch], model.device)
        output = forward(
            model,
            [adapter] * len(batch),
            **inputs,
            use_cache=False,
            output_hidden_states=True,
            logits_to_keep=1,
        )
        rows = torch.arange(len(batch), device=model.device)
        states.update(zip(batch, output.hidden_states[-1][rows, lengths - 1].float(), strict=True))
    return torch.stack([states[i] for i in range(len(texts))])


def verify(
    local: LocalModel, texts: Sequence[tuple[int, ...]], logprobs: Tensor
) -> tuple[float, ...]:
    """The verifier's probability that each attempt is right.

    Args:
        local: the small model.
        texts: token ids of question and attempt, B of them.
        logprobs: mean and least log-probability of each attempt's tokens, NaN if unknown,
            (B, 2).

    Raises:
        BackendError: there is no verifier, or a text does not fit into the context.
    """
    if local.score is None:
        raise BackendError(
            f"{local.name}: expected a model with a verifier, found none; train one with "
            "`allot models train verifier`"
        )
    longest = max((len(text) for text in texts), default=0)
    if longest > local.context_tokens:
        raise BackendError(
            f"verify: expected at most {local.context_tokens} tokens, found {longest}"
        )
    if not texts:
        return ()
    states = last_states(local.model, texts, VERIFIER)
    return tuple(local.score.probability(states, logprobs.to(states.device)).tolist())


def save_adapter(
    model: PeftModel, out: Path, *, base_digest: str, score: ScoreHead | None = None
) -> None:
    """Write an adapter; `allot.json`, written last, makes it valid.

    Args:
        model: with one adapter.
        out: directory, created if missing.
        base_digest: of the weights that it was trained on.
        score: head of a verifier.
    """
    model.save_pretrained(str(out))
    (out / "README.md").unlink(missing_ok=True)
    if score is not None:
        tensors = {name: tensor.contiguous() for name, tensor in vars(score).items()}
        save_file(tensors, out / _SCORE)
    temporary = out / (_NOTES + ".tmp")
    temporary.write_text(json.dumps({"version": 1, "base_digest": base_digest}) + "\n")
    os.replace(temporary, out / _NOTES)


def load_adapters(local: LocalModel, paths: Mapping[str, Path]) -> LocalModel:
    """A model with adapters on its weights.

    Args:
        local: the base model; its modules are changed in place.
        paths: directories by name, `REVISER` and `VERIFIER`.

    Raises:
        BackendError: an adapter is missing or damaged, or was trained on other weights.
    """
    from peft import PeftModel

    model: Any = local.model
    specs: list[AdapterSpec] = []
    score = None
    for name, path in paths.items():
        _check(local, name, path)
        try:
            if specs:
                model.load_adapter(str(path), adapter_name=name)
            else:
                model = PeftModel.from_pretrained(model, str(path), adapter_name=name)
        except (OSError, ValueError, RuntimeError, TypeError) as error:
            raise BackendError(
                f"adapter {path}: expected one that fits {local.name}; {error}"
            ) from error
        specs.append(_spec(name, path))
        if name == VERIFIER:
            score = _load_score(path, model.config.hidden_size)
    model.eval()
    return replace(local, model=model, adapters=tuple(specs), score=score)


def _check(local: LocalModel, name: str, path: Path) -> None:
    for file in (_NOTES, _WEIGHTS, "adapter_config.json"):
        if not (path / file).is_file():
            raise BackendError(
                f"adapter {path}: expected {file} in it, found none; train one with "
                f"`allot models train {name}`"
            )
    try:
        notes = json.loads((path / _NOTES).read_text())
        found = notes["base_digest"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise BackendError(f"{path / _NOTES}: expected base_digest: {error!r}") from None
    if found != local.digest:
        raise BackendError(
            f"adapter {path}: expected one for {local.name} with digest {local.digest}, found one "
            f"for {found}; train it again on these weights"
        )


def _spec(name: str, path: Path) -> AdapterSpec:
    digest = hashlib.sha256()
    for file in (_WEIGHTS, _SCORE):
        if (path / file).exists():
            digest.update((path / file).read_bytes())
    tensors = load_file(path / _WEIGHTS)
    return AdapterSpec(
        name=name,
        parameters=sum(tensor.numel() for tensor in tensors.values()),
        digest=digest.hexdigest()[:DIGEST_LENGTH],
    )


def _load_score(path: Path, width: int) -> ScoreHead:
    try:
        tensors = load_file(path / _SCORE)
        weight, calibration = tensors["weight"], tensors["calibration"]
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise BackendError(f"{path / _SCORE}: expected the head of a verifier: {error!r}") from None
    finite = bool(torch.isfinite(weight).all() and torch.isfinite(calibration).all())
    if weight.shape != (width,) or calibration.shape != (2, 4) or not finite:
        raise BackendError(
            f"{path / _SCORE}: expected {width} finite weights and a (2, 4) calibration, found "
            f"{tuple(weight.shape)} and {tuple(calibration.shape)}"
        )
    return ScoreHead(weight=weight, calibration=calibration)
