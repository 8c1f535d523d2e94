"""Settings: one set of names for files and flags, checked with errors that help."""

from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from controller.errors import ConfigError
from training.cli.app import app
from training.learn.config import PPOConfig, TrainConfig
from training.learn.settings import SETTINGS, flat, learnt_from, resolve, store

ROOT = Path(__file__).parent.parent.parent.parent


def written(tmp_path, text):
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    return path


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path):
    file = written(tmp_path, "out: runs/a\nlearning_rate: 1e-3\nclip: 0.3\nladder: [s, l]\n")
    settings = resolve({"learning_rate": "5e-4", "seeds": None}, file)
    assert settings.run.out == Path("runs/a")
    assert settings.train.ppo.learning_rate == 5e-4
    assert settings.train.ppo.clip == 0.3
    assert settings.train.ladder == ("s", "l")
    assert settings.train.ppo.num_envs == PPOConfig().num_envs


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("hidden_sizes", "32,16", (32, 16)),
        ("hidden_sizes", "[32, 16]", (32, 16)),
        ("token_costs", "big=12,huge=80.5", {"big": 12.0, "huge": 80.5}),
        ("token_costs", "{big: 12}", {"big": 12.0}),
        ("total_steps", "12_000", 12_000),
    ],
)
def test_a_value_means_the_same_as_a_flag_and_in_a_file(tmp_path, name, text, value):
    file = written(tmp_path, f"{name}: '{text}'\nout: runs/a\n")
    for settings in (resolve({name: text, "out": "runs/a"}), resolve({}, file)):
        assert {**vars(settings.train), **vars(settings.train.ppo)}[name] == value


def test_short_names_and_dashes_work_in_files(tmp_path):
    file = written(tmp_path, "steps: 100\nnum-envs: 8\nout: a\n")
    ppo = resolve({}, file).train.ppo
    assert (ppo.total_steps, ppo.num_envs) == (100, 8)


def test_environment_variables_stand_in_paths(monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "abc123")
    assert resolve({"out": "runs/$WANDB_RUN_ID"}).run.out == Path("runs/abc123")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lerning_rate: 1", r"any of out, .*seed, found 'lerning_rate'; the closest is learning_r"),
        ("learning_rate: fast", r"learning_rate: expected a valid number.*found 'fast'"),
        ("num_envs: 1.5", r"num_envs: expected a valid integer.*found 1\.5"),
        ("num_envs: true", r"num_envs: expected a valid integer.*found 'True'"),
        ("wandb: sometimes", r"wandb: expected 'auto', 'online'.*found 'sometimes'"),
        ("hidden_sizes: [64, deep]", r"hidden_sizes: expected a valid integer.*found 'deep'"),
        ("clip: 0", r"clip: expected more than 0, found 0"),
        ("gae_lambda: 2", r"gae_lambda: expected at least 0 and at most 1, found 2"),
        ("learning_rate: .nan", r"learning_rate: expected more than 0, found nan"),
        ("token_costs: {big: -1}", r"token_costs: expected more than 0, found big=-1"),
        ("token_costs: big=2,big=3", r"token_costs: expected big once, found 2 and 3"),
        ("clip: 0.1\nseed: 1\nclip: 0.2", r"yaml: expected YAML, found 'clip' for the second time"),
        ("token_costs: {big: 2, big: 3}", r"yaml: expected YAML, found 'big' for the second time"),
        (
            "token_costs: '{big: 2, big: 3}'",
            r"token_costs: expected .* names once each, found '{big",
        ),
        (
            "prices: [1.0e-300, 1]",
            r"prices: expected at least 1e-12 and at most 1e\+12, found 1e-300",
        ),
        (
            "seed: 99999999999999999999",
            r"seed: expected at least 0 and at most 9\.22337e\+18, found",
        ),
        ("steps: 1\ntotal_steps: 2", r"expected total_steps once, found it twice"),
        ("[1, 2]", r"expected names and values"),
        ("clip: [", r"expected YAML, found"),
    ],
)
def test_errors_name_the_setting_and_what_would_do(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        resolve({"out": "runs/a"}, written(tmp_path, text))


def test_a_run_directory_or_a_file_that_is_missing_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="out: expected a run directory"):
        resolve({})
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: expected a YAML file: No such file"):
        resolve({}, tmp_path / "nowhere.yaml")


def test_a_wrong_flag_is_named_as_a_flag():
    with pytest.raises(ConfigError, match="--num-envs: expected a valid integer"):
        resolve({"num_envs": "many"})


def test_stored_settings_repeat_the_run(tmp_path):
    config = TrainConfig(ladder=("s", "l"), token_costs={"l": 3}, ppo=PPOConfig(seed=7, clip=0.25))
    store(config, Path("some/traces"), tmp_path)
    again = resolve({"out": "elsewhere"}, tmp_path / "config.yaml")
    assert again.train == config
    assert again.run.traces == Path("some/traces")
    assert set(yaml.safe_load((tmp_path / "config.yaml").read_text())) == {"traces", *flat(config)}


def test_a_run_that_does_not_say_what_it_learnt_from_is_an_error(tmp_path):
    for text in ("seed: 1", "traces: 3"):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(ConfigError, match=r"expected `traces`, a directory, found (None|3)"):
            learnt_from(tmp_path)


def test_a_run_does_not_go_on_with_other_settings(tmp_path):
    store(TrainConfig(), Path("traces"), tmp_path)
    store(TrainConfig(), Path("traces"), tmp_path)
    with pytest.raises(ConfigError, match=r"hide_signals 0\.1 \(now 0\.5\); go on with --config"):
        store(TrainConfig(hide_signals=0.5), Path("traces"), tmp_path)


def test_help_shows_every_setting_in_its_group(allot):
    shown = allot("train", "--help").stdout
    positions = [shown.index(f"─ {title} ─") for title in ("Run", "Decisions", "PPO")]
    assert positions == sorted(positions)
    flags = {o for p in get_command(app).commands["train"].params for o in p.opts}
    for name, setting in SETTINGS.items():
        flag = f"--{name.replace('_', '-')}"
        assert flag in shown
        assert flag in flags
        assert setting.help


def test_flags_may_be_spelt_as_sweeps_spell_them(allot):
    done = allot("train", "--out=x", "--num_envs=0", check=False)
    assert "num_envs: expected at least 1, found 0" in done.stderr


@pytest.mark.parametrize(
    "more",
    [
        {"token_costs": {"huge": 3.0}},
        {"unit": "dollars", "dollars": {"huge": "1/2"}},
        {"unit": "seconds", "seconds": {"huge": "1/2"}},
    ],
)
def test_costs_of_models_that_the_traces_lack_are_refused(more):
    config = TrainConfig(**more)
    config.check_models(["small", "huge"])
    with pytest.raises(ConfigError, match=r"expected models among \['small'\], found 'huge'"):
        config.check_models(["small"])


@pytest.mark.parametrize("unit", ["dollars", "seconds"])
def test_rates_are_of_the_unit_that_counts(unit):
    with pytest.raises(ConfigError, match=f"{unit}: expected --unit {unit} beside it, found flops"):
        TrainConfig(**{unit: {"small": "1/2"}})
    with pytest.raises(ConfigError, match=f"{unit}: expected small=PROMPT/WRITTEN .*found '1'"):
        TrainConfig(unit=unit, **{unit: {"small": "1"}})
    for text in ("-1/2", "1/nan", "inf/1"):
        with pytest.raises(ConfigError, match=f"{unit}: expected small=PROMPT/WRITTEN .*'{text}'"):
            TrainConfig(unit=unit, **{unit: {"small": text}})
    assert TrainConfig(unit=unit, **{unit: {"small": "1/2"}}).rates == {"small": (1.0, 2.0)}
