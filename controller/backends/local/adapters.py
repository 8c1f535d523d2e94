"""Adapters on the small model's weights: LoRA through peft, mixed row by row in one batch.

An adapter is a directory that peft wrote (adapter_config.json, adapter_model.safetensors),
with `allot.json`, which names the weights that it was trained on, and for a verifier
`score.safetensors`, the calibration of its score. A verifier that reads what the model itself makes
of an attempt has no files of peft, but its read-out beside the calibration.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from controller.backends.local.kv import BASE, batches_by_length, forward, padded
from controller.backends.local.model import DIGEST_LENGTH, Encoded, LocalModel, StateReadout
from controller.backends.prompts import VERIFIER
from controller.errors import BackendError
from controller.files import write_text
from controller.process.episodes import LEAST_LOGPROB
from controller.process.types import AdapterSpec

if TYPE_CHECKING:
    from peft import PeftModel

_NOTES, _WEIGHTS, _SCORE = "allot.json", "adapter_model.safetensors", "score.safetensors"
_FILES = (_NOTES, _WEIGHTS, "adapter_config.json")
_READOUT, _LEARNT = "readout", "learnt"


def token_logprobs(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probability of every token after the first, from logits (B, L, V) and ids (B, L).

    Returns:
        (B, L - 1), not below `LEAST_LOGPROB`.
    """
    logprobs = logits[:, :-1].float().log_softmax(-1)
    return logprobs.gather(2, ids[:, 1:, None])[:, :, 0].clamp_min(LEAST_LOGPROB)


@torch.inference_mode()
def attempt_states(model: Any, texts: Sequence[Encoded]) -> Tensor:
    """What the model makes of attempts, its adapters aside, (B, 2H).

    The last layer's hidden states: at the end of an attempt, and their mean over its tokens.
    """
    found: dict[int, Tensor] = {}
    for batch in batches_by_length([len(text.tokens) for text in texts]):
        inputs, lengths = padded([texts[i].tokens for i in batch], model.device)
        how = {"use_cache": False, "output_hidden_states": True, "logits_to_keep": 1}
        output = forward(model, [BASE] * len(batch), **inputs, **how)
        states = output.hidden_states[-1].float()  # (B, L, H)
        written = _written([texts[i] for i in batch], lengths, states.shape[1])[..., None]
        means = (states * written).sum(1) / written.sum(1).clamp_min(1)
        ends = states[torch.arange(len(batch), device=states.device), lengths - 1]
        found.update(zip(batch, torch.cat((ends, means), 1), strict=True))
    return torch.stack([found[i] for i in range(len(texts))])


def _written(texts: Sequence[Encoded], lengths: Tensor, width: int) -> Tensor:
    """Which tokens are the attempts', (B, L), of sequences padded on the right."""
    begins = torch.tensor([text.begin for text in texts], device=lengths.device)
    columns = torch.arange(width, device=lengths.device)
    return (columns >= begins[:, None]) & (columns < lengths[:, None])


@torch.inference_mode()
def judge(model: Any, texts: Sequence[Encoded], adapter: str) -> Tensor:
    """Sum and least log-probability of each attempt's tokens through an adapter, (B, 2)."""
    judged: dict[int, Tensor] = {}
    for batch in batches_by_length([len(text.tokens) for text in texts]):
        inputs, lengths = padded([texts[i].tokens for i in batch], model.device)
        output = forward(model, [adapter] * len(batch), **inputs, use_cache=False)
        logprobs = token_logprobs(output.logits, inputs["input_ids"])  # (B, L - 1)
        written = _written([texts[i] for i in batch], lengths, logprobs.shape[1] + 1)[:, 1:]
        logprobs = torch.where(written, logprobs, 0.0)
        both = torch.stack((logprobs.sum(1), logprobs.amin(1)), 1)  # (B, 2)
        judged.update(zip(batch, both, strict=True))
    return torch.stack([judged[i] for i in range(len(texts))])


def score_attempts(
    local: LocalModel, texts: Sequence[Encoded], logprobs: Tensor
) -> tuple[float, ...]:
    """The verifier's probability that each of B attempts is right; see `probability`.

    Raises:
        BackendError: there is no verifier, or a text does not fit into the context.
    """
    if local.score is None:
        raise BackendError(
            f"{local.name}: expected a model with a verifier, found none; train one with "
            "`allot adapters train verifier`"
        )
    longest = max((len(text.tokens) for text in texts), default=0)
    if longest > local.context_tokens:
        raise BackendError(
            f"verify: expected at most {local.context_tokens} tokens, found {longest}"
        )
    if not texts:
        return ()
    if local.readout is None:
        judged = judge(local.model, texts, VERIFIER)
    else:
        judged = local.readout(attempt_states(local.model, texts), texts)
    judged = judged.to(logprobs.device)
    return tuple(probability(local.score, judged, logprobs).tolist())


def probability(calibration: Tensor, judged: Tensor, logprobs: Tensor) -> Tensor:
    """How likely B attempts are right, (B,).

    Args:
        calibration: (2, 7): what the features of `score_features` are multiplied by; first
            where the writer's log-probabilities are known, then where not.
        judged: (B, 2) sum and least log-probability by the verifier, or see `StateReadout`.
        logprobs: (B, 2) mean and least by the writer, NaN where unknown.
    """
    unknown = logprobs.isnan().any(1)  # (B,)
    features = score_features(judged, torch.where(unknown[:, None], 0.0, logprobs))
    return torch.sigmoid((features * calibration[unknown.long()]).sum(1))


def score_features(judged: Tensor, logprobs: Tensor) -> Tensor:
    """What a score is calibrated on, (B, 7): `judged`, the same as probabilities, `logprobs`, 1."""
    return torch.cat((judged, judged.exp(), logprobs, torch.ones_like(judged[:, :1])), 1)


def save_adapter(
    model: PeftModel | None,
    out: Path,
    *,
    base_digest: str,
    score: Tensor | None = None,
    readout: StateReadout | None = None,
) -> None:
    """Write an adapter, or a read-out; `allot.json`, written last, makes it valid."""
    out.mkdir(parents=True, exist_ok=True)
    if model is not None:
        model.save_pretrained(str(out))
        shutil.copymode(out / "adapter_config.json", out / _WEIGHTS)
        (out / "README.md").unlink(missing_ok=True)
    else:
        for file in _FILES[1:]:
            (out / file).unlink(missing_ok=True)
    if score is not None:
        held = {} if readout is None else {_READOUT: readout.weights, _LEARNT: readout.learnt}
        tensors = {"calibration": score} | held
        (out / _SCORE).write_bytes(save({name: t.contiguous() for name, t in tensors.items()}))
    write_text(out / _NOTES, json.dumps({"version": 1, "base_digest": base_digest}) + "\n")


def load_adapters(local: LocalModel, paths: Mapping[str, Path]) -> LocalModel:
    """A model with adapters on its weights, by `REVISER` and `VERIFIER`; it is changed in place.

    Raises:
        BackendError: an adapter is missing or damaged, or was trained on other weights.
    """
    model: Any = local.model
    specs: list[AdapterSpec] = []
    score = readout = None
    for name, path in paths.items():
        known = _load_score(path, local) if name == VERIFIER and (path / _SCORE).exists() else {}
        _check(local, name, path, files=(_NOTES,) if _READOUT in known else _FILES)
        if _READOUT not in known:
            model = _with_adapter(model, local.name, path, name)
            # In float32, as they are stored, what they read and write would be cast each time.
            for weight_of, weight in model.named_parameters():
                if f".{name}." in weight_of:
                    weight.data = weight.data.to(model.dtype)
        specs.append(_spec(name, path))
        score = known.get("calibration", score)
        if _READOUT in known:
            readout = StateReadout(known[_READOUT], known[_LEARNT])
    model.eval()
    return replace(local, model=model, adapters=tuple(specs), score=score, readout=readout)


def _with_adapter(model: Any, model_name: str, path: Path, name: str) -> Any:
    from peft import PeftModel

    try:
        if isinstance(model, PeftModel):
            model.load_adapter(str(path), adapter_name=name)
            return model
        with warnings.catch_warnings():
            # peft reads a property that transformers deprecates.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
            return PeftModel.from_pretrained(model, str(path), adapter_name=name)
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise BackendError(
            f"adapter {path}: expected one that fits {model_name}; {error}"
        ) from error


def _check(local: LocalModel, name: str, path: Path, files: Sequence[str]) -> None:
    for file in (*files, *((_SCORE,) if name == VERIFIER else ())):
        if not (path / file).is_file():
            raise BackendError(
                f"adapter {path}: expected {file} in it, found none; "
                f"`allot adapters train {name}` makes one"
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
    files = (path / file for file in (_WEIGHTS, _SCORE))
    held = [file.read_bytes() for file in files if file.exists()]
    digest, tensors = hashlib.sha256(b"".join(held)), load(held[0])
    return AdapterSpec(
        name=name,
        parameters=sum(t.numel() for t in tensors.values() if t.is_floating_point()),
        digest=digest.hexdigest()[:DIGEST_LENGTH],
    )


def _load_score(path: Path, local: LocalModel) -> dict[str, Tensor]:
    try:
        tensors = load((path / _SCORE).read_bytes())
        calibration = tensors["calibration"]
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise BackendError(
            f"{path / _SCORE}: expected a verifier's calibration: {error!r}"
        ) from None
    if calibration.shape != (2, 7) or not bool(torch.isfinite(calibration).all()):
        raise BackendError(
            f"{path / _SCORE}: expected a finite (2, 7) calibration, found "
            f"{tuple(calibration.shape)}"
        )
    readout, width = tensors.get(_READOUT), 2 * local.model.config.get_text_config().hidden_size + 1
    if readout is not None and not (
        readout.shape[1:] == (width,) and bool(readout.isfinite().all()) and _LEARNT in tensors
    ):
        raise BackendError(
            f"{path / _SCORE}: expected finite read-outs of {width} numbers for {local.name} and "
            f"the questions that they learnt from, found {tuple(readout.shape)}; train it again "
            "with `allot adapters train verifier`"
        )
    return tensors
