"""What a word for a model means, and what is wrong with it."""

import subprocess
import sys
from pathlib import Path

import pytest

from controller.backends.places import ModelPlace, NamedModels
from controller.bundled import bundled
from controller.errors import ConfigError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a model of each local form, and things that are none."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models/small").mkdir(parents=True)
    (tmp_path / "models/small/config.json").write_text("{}")
    (tmp_path / "models/empty").mkdir()
    (tmp_path / "models/qwen.Q4.gguf").write_bytes(b"GGUF\x03\0\0\0")
    (tmp_path / "models/other.gguf").write_bytes(b"PK\x03\x04")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        ("models/small", "directory", "small"),
        ("./models/small/", "directory", "small"),
        ("models/qwen.Q4.gguf", "gguf", "qwen.Q4"),
        ("Qwen/Qwen2.5-Coder-0.5B-Instruct", "hub", "Qwen/Qwen2.5-Coder-0.5B-Instruct"),
        ("http://127.0.0.1:8000/v1#q05", "server", "q05"),
        ("Qwen/Some-GGUF/some-q4_k_m.gguf", "hub", "Qwen/Some-GGUF/some-q4_k_m.gguf"),
        ("quick=Qwen/Some-GGUF/Q4/some.gguf", "hub", "quick"),
        ("terse=models/small", "directory", "terse"),
        ("terse=Qwen/Qwen2.5-Coder-0.5B-Instruct", "hub", "terse"),
        ("terse=https://host/v1?a=b#q05", "server", "terse"),
    ],
)
def test_each_form_is_told_from_the_others_and_can_be_named(folder, text, kind, name):
    place = ModelPlace.parse(text)
    assert place.name == name
    assert (place.path is not None, place.is_gguf) == (
        kind in ("directory", "gguf"),
        kind == "gguf",
    )
    assert place.is_server is (kind == "server")


def test_a_server_has_a_url_and_a_model_of_its_own(folder):
    place = ModelPlace.parse("terse=http://host/v1/#org/model")
    assert (place.url, place.model, place.name) == ("http://host/v1", "org/model", "terse")
    assert ModelPlace.parse("http://host/v1", model="small").model == "small"
    whole = ModelPlace.parse("http://host/v1/chat/completions?api-version=1#m")
    assert whole.url == "http://host/v1?api-version=1"
    with pytest.raises(ConfigError, match="URL#MODEL"):
        ModelPlace.parse("http://host/v1")


def test_local_models_are_found_from_anywhere(folder, monkeypatch):
    place = ModelPlace.parse("models/small")
    monkeypatch.chdir("/")
    assert place.source == str(folder / "models/small")
    assert ModelPlace.parse("Qwen/Qwen3").source == "Qwen/Qwen3"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "no such path"),
        ("nowhere", "no such path: 'nowhere'"),
        ("/no/where", "no such path"),
        ("./no/where", "no such path"),
        ("a/b/c", "no such path"),
        ("owner/file.gguf", "no such path"),
        (Path("owner/name"), "no such path"),
        ("models/smal", "in the folder 'models'"),
        ("models/small/chat.gguf", "in the folder 'models'"),
        ("checkpoints/small", "in the folder 'checkpoints'"),
        ("models/empty", "config.json in the directory"),
        ("models/other.gguf", "begins with b'PK"),
        ("ftp://host/v1#m", "http:// or https://"),
        ("localhost:8000/v1#m", "http:// or https://"),
        ("localhost:8000/v1", "http:// or https://"),
        ("a=http://host/v1#m,tiers=small", "options of tier, .*found 'tiers'"),
        ("a=models/small,tier=small, familly=q", "found 'small, familly=q'"),
        ("a=models/small,family=q,tiers=small", "found 'tiers'"),
        ("a=models/small,tier=small,tier=large", "each option once"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(folder, text, found):
    with pytest.raises(ConfigError, match=found) as error:
        ModelPlace.parse(text)
    assert "\n" not in str(error.value)
    assert "expected" in str(error.value)


def test_a_file_on_the_hub_is_told_from_a_repository():
    place = ModelPlace.parse("Qwen/Some-GGUF/Q4/some.gguf")
    assert place.hub_file == ("Qwen/Some-GGUF", "Q4/some.gguf")
    assert ModelPlace.parse("Qwen/Some-GGUF").hub_file is None
    assert ModelPlace.parse("http://host/v1#Qwen/Some-GGUF/some.gguf").hub_file is None


def test_a_menu_that_comes_with_allot_is_called_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named = NamedModels(menu=Path("real"))
    assert [place.name for place in named.all] == ["s135", "q05", "q05-step", "q15", "q15-step"]
    assert all(place.hub_file and place.prompt for place in named.all)
    assert named.controller == bundled("real/controller")
    (tmp_path / "real").write_text("arms: [{name: own, model: Qwen/Qwen3}]")
    assert [place.name for place in NamedModels(menu=Path("real")).all] == ["own"]
    assert NamedModels(menu=Path("real")).controller == bundled("controller")


def test_nothing_heavy_is_imported():
    program = (
        "import sys; from controller.backends.places import ModelPlace; "
        "print([m for m in ('torch', 'transformers', 'openai', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
