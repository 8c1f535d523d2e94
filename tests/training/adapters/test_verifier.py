"""Scores added later are those that a recording with the verifier makes."""

import numpy as np
import pytest

from controller.backends.prompts import VERIFIER
from controller.errors import ConfigError
from envs.traces.format import TraceSet
from tests.conftest import CHECKPOINTS
from training.adapters.verifier import add_scores
from training.record.settings import RecordConfig
from training.record.sources import find_source, record_models

VERIFIER_PATH = CHECKPOINTS / "verifier"


@pytest.fixture(scope="module")
def recorded(validation, tmp_path_factory):
    out = tmp_path_factory.mktemp("recorded")
    models = [str(CHECKPOINTS / name) for name in ("small", "large")]
    for name, adapters in (("with", {VERIFIER: VERIFIER_PATH}), ("without", {})):
        record_models(
            {"train": validation.questions[::100]},
            find_source(models, adapters=adapters, max_new_tokens=96),
            out / name,
            RecordConfig(samples=3, escalations=1),
        )
    return out


def scores(path):
    return np.array(TraceSet.read(path).attempts["verifier_score"].to_pylist(), np.float64)


def test_scores_and_adapter_are_those_of_a_recording(recorded):
    done = []
    plain = TraceSet.read(recorded / "without")
    add_scores(plain, CHECKPOINTS / "small", VERIFIER_PATH, recorded / "later", done.append)
    found, expected = scores(recorded / "later"), scores(recorded / "with")
    assert np.array_equal(np.isnan(found), np.isnan(expected))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert done[-1] == np.isfinite(expected).sum()
    manifests = [TraceSet.read(recorded / name).manifest for name in ("later", "with")]
    assert manifests[0]["models"] == manifests[1]["models"]


def test_another_models_attempts_are_refused(recorded):
    plain = TraceSet.read(recorded / "without")
    with pytest.raises(ConfigError, match="no trace set there yet"):
        add_scores(plain, CHECKPOINTS / "small", VERIFIER_PATH, recorded / "with")
    plain.manifest["models"]["small"]["digest"] = "another"
    with pytest.raises(ConfigError, match="verify them with the model that wrote them"):
        add_scores(plain, CHECKPOINTS / "small", VERIFIER_PATH, recorded / "new")
