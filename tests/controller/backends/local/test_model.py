"""A real model in a GGUF file, `ALLOT_REAL_MODEL=FILE`, loaded and asked."""

import hashlib
import os
from pathlib import Path

import pytest
import torch

from controller.backends.base import Request, run_now
from controller.backends.local.backend import TransformersBackend, load_model
from controller.backends.prompts import messages
from controller.errors import BackendError
from controller.process.actions import ActionKind
from controller.process.types import Question

FILE = os.environ.get("ALLOT_REAL_MODEL", "")
QUESTION = Question(question_id="q", text="What is 2 + 3? Reply with the number only.")
REQUESTS = [Request(question=QUESTION, action=ActionKind.SAMPLE, index=i) for i in range(3)]

real = pytest.mark.skipif(
    not FILE, reason="set ALLOT_REAL_MODEL to the GGUF file of a small chat model"
)


@pytest.fixture(scope="module")
def local():
    return load_model(FILE, 0)


@real
def test_name_size_and_digest_are_those_of_the_file(local):
    file = Path(FILE)
    assert local.name == file.stem
    assert local.digest == hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    embedding = local.model.get_input_embeddings().weight.numel()
    multiplied = sum(p.numel() for p in local.model.parameters()) - embedding
    head = local.model.get_output_embeddings().weight
    tied = head is local.model.get_input_embeddings().weight
    assert local.parameters == multiplied + (embedding if tied else 0)
    assert local.model.dtype in (torch.bfloat16, torch.float32)


@real
def test_the_template_in_the_file_is_used(local):
    text = local.tokenizer.apply_chat_template(
        messages(REQUESTS[0]), add_generation_prompt=True, tokenize=False
    )
    assert QUESTION.text in text != QUESTION.text
    assert local.tokenizer.decode(list(local.encode(REQUESTS[0]))) == text


@real
def test_attempts_say_something_and_do_not_depend_on_company(local):
    backend = TransformersBackend([local], max_new_tokens=24)
    together = run_now(backend.attempts(REQUESTS))
    assert all(a.error is None and a.text for a in together)
    assert any("5" in (a.text or "") for a in together)
    again = run_now(TransformersBackend([local], max_new_tokens=24).attempts(REQUESTS))
    assert [a.text for a in again] == [a.text for a in together]
    alone = [
        run_now(TransformersBackend([local], max_new_tokens=24).attempts([r]))[0] for r in REQUESTS
    ]
    assert [a.text for a in alone] == [a.text for a in together]


def test_a_file_that_only_begins_like_one_is_refused(tmp_path):
    (tmp_path / "broken.gguf").write_bytes(b"GGUF\x03\0\0\0" + bytes(16))
    with pytest.raises(BackendError, match=r"broken\.gguf: expected a GGUF file"):
        load_model(tmp_path / "broken.gguf", 0)
