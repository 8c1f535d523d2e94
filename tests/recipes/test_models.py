"""The bundled models' recipes on less of everything."""

from dataclasses import replace

import pytest

from controller.backends.local.adapters import load_adapters
from controller.backends.local.backend import load_model
from controller.backends.prompts import REVISER, VERIFIER
from recipes import models
from recipes.language_models import CONFIGS, LanguageModelTraining
from recipes.looped import CONFIG, LoopedTraining
from tests.conftest import CHECKPOINTS


def test_a_name_that_is_not_bundled_is_refused(allot):
    done = allot("train", "medium", program="recipes.models", check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: model: expected one of ['small', 'large', 'looped', ")


def test_the_looped_model_begins_as_the_small_one_and_is_resumed(tmp_path):
    config = replace(CONFIG, train_tokens=30_000, broad_tokens=20_000)
    LoopedTraining(config, tmp_path).run()
    again = LoopedTraining(config, tmp_path)
    assert again.tokens >= config.train_tokens
    assert again.model.config.num_loops == 1
    begun = LoopedTraining(config, tmp_path / "fresh").model.state_dict()
    assert begun.keys() == again.model.state_dict().keys()
    assert not begun["model.inject.weight"].equal(again.model.model.inject.weight)


def test_a_bundled_shape_learns_and_loads(tmp_path):
    config = replace(CONFIGS["small"], train_tokens=30_000, broad_tokens=20_000)
    losses = []
    LanguageModelTraining(config, tmp_path).run(lambda tokens, loss: losses.append(loss))
    assert losses[-1] < losses[0]
    assert load_model(tmp_path, 0).parameters == 159_488


@pytest.fixture
def few_questions(monkeypatch):
    monkeypatch.setattr(models, "REVISER_QUESTIONS", (4, 4, 0, 0, 0))
    monkeypatch.setattr(models, "NUM_DRAWS", 500)
    monkeypatch.setattr(models, "VERIFIER_QUESTIONS", (8, 8, 0, 0, 0))


def test_adapters_are_trained_on_attempts_of_their_own(few_questions, tmp_path):
    (tmp_path / "small").symlink_to(CHECKPOINTS / "small")
    for name in (REVISER, VERIFIER):
        models.train_adapter(name, tmp_path, tmp_path / name, lambda share, text: None)
    paths = {name: tmp_path / name for name in (REVISER, VERIFIER)}
    small = load_adapters(load_model(CHECKPOINTS / "small", 0), paths)
    assert [spec.name for spec in small.adapters] == [REVISER, VERIFIER]
    assert small.score is not None
