"""Checkpoints on the Hub: real programs against a server that speaks its endpoints."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from controller.card import read_figures, write_figures
from controller.checkpoint import MAX_FILE_BYTES, load_checkpoint
from controller.errors import CheckpointError
from controller.hub import card_of, save_copy
from controller.loading import load_backend
from tests.conftest import CHECKPOINTS, REAL, needs_real_model
from tests.hub_server import TOKEN, hub

BUNDLED = CHECKPOINTS / "controller"
ADAPTERS = {name: str(CHECKPOINTS / name) for name in ("reviser", "verifier")}
MODELS = [str(CHECKPOINTS / name) for name in ("small", "large")]
QUESTION = "Solve the following multiplication: 3 * 4."


def run(program, server, home):
    """Run a program that takes `server` for the Hub; what it prints, as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **server.environment(home), "PYTHONPATH": str(CHECKPOINTS.parent)},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_pushed_controllers_come_back_and_answer_alike(tmp_path):
    program = f"""
import json
from controller.hub import from_hub, push_to_hub
from controller.loop import Controller

local = Controller.load({str(BUNDLED)!r})
commit = push_to_hub(
    from_hub({str(BUNDLED)!r}), "me/controller", private=True, license="apache-2.0"
)
shared = Controller.from_pretrained("me/controller", models={MODELS}, adapters={ADAPTERS})
outcomes = [c.answer({QUESTION!r}, price=1e-4) for c in (local, shared)]
print(json.dumps([commit, *([o.answer, o.cost, o.decisions[0].value] for o in outcomes)]))
"""
    with hub() as server:
        commit, local, shared = run(program, server, tmp_path)
        files = server.repos["me/controller"]
    assert commit.startswith(f"{server.url}/me/controller/commit/")
    assert local == shared
    assert set(files) == {path.name for path in BUNDLED.iterdir()}
    settings = json.loads(files["controller.json"])
    assert (settings["model_paths"], settings["adapter_paths"]) == ([], {})
    assert b"license: apache-2.0" in files["README.md"]
    assert not any(TOKEN.encode() in content for content in files.values())


def test_models_on_the_hub_are_found_there_and_the_cache_does_without_it(tmp_path):
    program = f"""
import json
from dataclasses import replace
from pathlib import Path
from controller.checkpoint import load_checkpoint
from controller.hub import push_to_hub
from controller.loop import Controller

places = ("hf://me/small", "hf://me/large")
push_to_hub(replace(load_checkpoint({str(BUNDLED)!r}), model_paths=places), "me/controller")
controller = Controller.from_pretrained("me/controller", adapters={ADAPTERS})
print(json.dumps(controller.answer({QUESTION!r}).answer))
"""
    offline = """
import json
from controller.hub import from_hub

print(json.dumps(from_hub("me/controller").model_paths))
"""
    with hub() as server:
        for name in ("small", "large"):
            server.repos[f"me/{name}"] = {
                path.name: path.read_bytes() for path in (CHECKPOINTS / name).iterdir()
            }
        assert run(program, server, tmp_path) == "12"
    assert run(offline, server, tmp_path) == ["hf://me/small", "hf://me/large"]


LOADING = """
import json
import warnings
from controller.backends.local.model import load_model
from controller.backends.places import ModelPlace, tell_downloads
from controller.errors import BackendError

place = ModelPlace.parse("arm=me/models-GGUF/chat.Q4.gguf")
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    tell_downloads([place, None])
told = [str(note.message) for note in told]
try:
    model = load_model(place, 0)
    found = [model.name, model.digest]
except BackendError as error:
    found = str(error)
print(json.dumps([told, found]))
"""


def test_a_file_that_the_hub_lacks_is_named_with_how_to_fetch_it(tmp_path):
    with hub() as server:
        server.repos["me/models-GGUF"] = {"other.gguf": b"GGUF"}
        told, found = run(LOADING, server, tmp_path)
    assert told == ["downloads from the Hub: me/models-GGUF/chat.Q4.gguf"]
    assert "model me/models-GGUF/chat.Q4.gguf: expected the file on the Hub" in found
    assert "`hf download me/models-GGUF chat.Q4.gguf`" in found


@needs_real_model
def test_a_gguf_file_of_the_hub_is_downloaded_once(tmp_path):
    content = Path(REAL[0]).read_bytes()
    with hub() as server:
        server.repos["me/models-GGUF"] = {"chat.Q4.gguf": content}
        told, (name, digest) = run(LOADING, server, tmp_path)
    assert told == ["downloads from the Hub: me/models-GGUF/chat.Q4.gguf"]
    assert (name, digest) == ("arm", hashlib.sha256(content).hexdigest()[:16])
    assert run(LOADING, server, tmp_path) == [[], ["arm", digest]]


def test_what_is_not_a_checkpoint_is_refused(tmp_path):
    program = """
import json
from controller.errors import CheckpointError
from controller.hub import from_hub

found = []
for name in ("me/nothing", "not a name!", "me/huge", "me/half"):
    try:
        from_hub(name)
    except CheckpointError as error:
        found.append(str(error))
print(json.dumps(found))
"""
    settings = (BUNDLED / "controller.json").read_bytes()
    with hub() as server:
        server.repos["me/huge"] = {
            "controller.json": settings,
            "controller.safetensors": bytes(MAX_FILE_BYTES + 1),
        }
        server.repos["me/half"] = {"controller.json": settings}
        nothing, unnamed, huge, half = run(program, server, tmp_path)
        fetched = [path for method, path in server.requests if method == "GET"]
    for message in (nothing, unnamed):
        assert "expected a directory or a repository on the Hub" in message
    assert "expected at most 67108864 bytes in ['controller.safetensors']" in huge
    assert not any("huge/resolve" in path for path in fetched)
    assert "expected the weights of the controller" in half


def test_saved_elsewhere_it_still_finds_its_models(tmp_path):
    checkpoint = load_checkpoint(BUNDLED)
    save_copy(checkpoint, tmp_path / "deep" / "copy")
    copy = load_checkpoint(tmp_path / "deep" / "copy")
    assert [copy.located(path) for path in copy.model_paths] == [
        (CHECKPOINTS / name).resolve() for name in ("small", "large")
    ]
    assert {m.digest for m in load_backend(copy).models} == {m.digest for m in copy.models}
    assert copy.calibration == checkpoint.calibration
    assert str(card_of(copy)) == str(card_of(checkpoint))
    with pytest.raises(CheckpointError, match=r"models=\[...\], or a backend"):
        load_backend(replace(copy, model_paths=()))


def test_card_tells_the_measured_accuracy_and_its_interval():
    card = ModelCard.load(BUNDLED / "README.md")
    figures = read_figures(BUNDLED)
    point = figures.points[0]
    first = next(r for r in card.data.eval_results if r.metric_type == "accuracy")
    assert first.metric_value == pytest.approx(point.accuracy, abs=1e-6)
    assert first.metric_args["price"] == point.price
    low, high = first.metric_args["interval"]
    assert low < first.metric_value < high
    assert f"{point.accuracy:.1%} ({low:.1%} to {high:.1%})" in card.text
    for action in load_checkpoint(BUNDLED).config.actions:
        assert f"| {action} |" in card.text
    assert "- decisions: 48,000,000, seed 0" in card.text


def test_bundled_card_is_up_to_date():
    assert (BUNDLED / "README.md").read_text() == f"{card_of(load_checkpoint(BUNDLED))}\n"


def test_figures_of_other_weights_are_not_shown(tmp_path):
    checkpoint = load_checkpoint(BUNDLED)
    save_copy(checkpoint, tmp_path)
    weights = load_file(tmp_path / "controller.safetensors")
    name = min(weights)
    save_file({**weights, name: weights[name] + 1}, tmp_path / "controller.safetensors")
    card = str(card_of(load_checkpoint(tmp_path)))
    assert "Not measured yet" in card
    assert "lead over it" not in card


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"version": 2}', '{"version": 1}', json.dumps({"version": 1, "points": 3})]
)
def test_damaged_figures_are_refused(tmp_path, text):
    save_copy(load_checkpoint(BUNDLED), tmp_path)
    (tmp_path / "card.json").write_text(text)
    with pytest.raises(CheckpointError, match="expected what `allot evaluate` writes"):
        card_of(load_checkpoint(tmp_path))


def test_figures_are_read_as_they_were_written(tmp_path):
    figures = read_figures(BUNDLED)
    write_figures(figures, tmp_path)
    assert read_figures(tmp_path) == figures
    leads = [point.lead for point in figures.points]
    assert np.isfinite(leads).all()
