"""The transformers backend, on tiny Llamas with random weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

from controller.backends.architecture import active_parameters
from controller.backends.base import Request, run_now
from controller.backends.identity import weights_digest
from controller.backends.local.backend import LocalModel, TransformersBackend, load_model
from controller.backends.prompts import REVISE_PROMPT
from controller.errors import BackendError, ConfigError
from controller.process.actions import ActionKind
from controller.process.types import Attempt, Question
from recipes.language_models import LanguageModelConfig, build_model
from recipes.tokenizer import build_tokenizer

CONTEXT_TOKENS = 96
MAX_NEW_TOKENS = 40
SHAPE = LanguageModelConfig(
    hidden_size=32, num_layers=2, num_heads=4, intermediate_size=48, train_tokens=0, broad_tokens=0
)
QUESTIONS = [
    Question(question_id=f"q{i}", text=text)
    for i, text in enumerate(("7-3-7", "12+34*5", "sort b a", "7", "a longer question: 1+2+3+4"))
]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A small and a large model, sharp enough that answers differ and sometimes end."""
    tokenizer = build_tokenizer()
    found = []
    for name, seed in (("small", 1), ("large", 2)):
        model = build_model(replace(SHAPE, seed=seed, num_layers=1 + seed), tokenizer)
        model.config.max_position_embeddings = CONTEXT_TOKENS
        with torch.no_grad():
            embedding = next(model.get_input_embeddings().parameters())
            embedding.mul_(12)
            embedding[tokenizer.eos_token_id] *= 3
        found.append(tmp_path_factory.mktemp("models") / name)
        model.save_pretrained(found[-1])
        tokenizer.save_pretrained(found[-1])
    return found


@pytest.fixture
def models(paths: list[Path]) -> list[LocalModel]:
    return [load_model(path, rung) for rung, path in enumerate(paths)]


def build(models: Sequence[LocalModel], **settings: Any) -> TransformersBackend:
    defaults = {"max_new_tokens": MAX_NEW_TOKENS, "temperature": 1.0}
    return TransformersBackend(models, **{**defaults, **settings})


def samples(questions: Sequence[Question] = QUESTIONS, count: int = 4) -> list[Request]:
    return [
        Request(question=question, action=ActionKind.SAMPLE, index=index)
        for question in questions
        for index in range(count)
    ]


def texts(attempts: Sequence[Attempt]) -> list[str | None]:
    return [attempt.text for attempt in attempts]


class TokenCount:
    """Counts the tokens that go through a model, padding excluded."""

    def __init__(self, local: LocalModel) -> None:
        self.total = 0
        local.model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        prompts = kwargs["input_ids"].shape[1] > 1
        self.total += int(kwargs["attention_mask"].sum() if prompts else len(kwargs["input_ids"]))


class TestIndependence:
    """An attempt depends on its request and the seed alone."""

    def test_alone_or_in_any_batch(self, models: list[LocalModel]) -> None:
        requests = samples()
        together = texts(run_now(build(models).attempts(requests)))
        reversed_order = texts(run_now(build(models).attempts(requests[::-1])))[::-1]
        narrow = texts(run_now(build(models, max_rows=3).attempts(requests)))
        alone = [texts(run_now(build(models).attempts([request])))[0] for request in requests]
        assert together == reversed_order == narrow == alone

    def test_a_temperature_of_its_own_is_that_of_a_backend(self, models: list[LocalModel]) -> None:
        """Requests of several temperatures in one batch are what each would be alone."""
        requests = samples()
        mixed = [
            replace(r, question=replace(r.question, fields={"temperature": t} if t != 1 else {}))
            for r in requests
            for t in (1.0, 0.0, 0.5)
        ]
        found = texts(run_now(build(models).attempts(mixed)))
        for place, temperature in enumerate((1.0, 0.0, 0.5)):
            alone = texts(run_now(build(models, temperature=temperature).attempts(requests)))
            assert found[place::3] == alone

    def test_texts_are_told_piece_by_piece(self, models: list[LocalModel]) -> None:
        told: list[list[str]] = [[] for _ in samples()]
        requests = [
            replace(r, on_text=said.append) for r, said in zip(samples(), told, strict=True)
        ]
        found = texts(run_now(build(models, max_rows=3).attempts(requests)))
        assert found == texts(run_now(build(models).attempts(samples())))
        whole = [
            (text, said) for text, said in zip(found, told, strict=True) if "\ufffd" not in text
        ]
        assert whole, "those without half a character"
        for text, said in whole:
            assert "".join(said) == text
            assert len(said) > 1

    @pytest.mark.parametrize("listed", [False, True])
    def test_a_text_ends_before_what_a_client_names_and_is_told_token_by_token(
        self, models: list[LocalModel], listed: bool
    ) -> None:
        backend = build(models)
        assert all(map(backend.takes, ("stop", "logprobs")))
        (whole,) = run_now(backend.attempts(samples(QUESTIONS[:1], 1)))
        assert whole.text
        stop = whole.text[len(whole.text) // 2]
        fields = {"stop": ["not there", stop] if listed else stop, "logprobs": True}
        asked = [replace(QUESTIONS[0], fields=fields)]
        said: list[str] = []
        requests = [replace(r, on_text=said.append) for r in samples(asked, 1)]
        (made,) = run_now(backend.attempts(requests))
        assert (made.text, made.finish_reason) == (whole.text.partition(stop)[0], "stop")
        assert made.completion_tokens == whole.completion_tokens
        assert "".join(entry["token"] for entry in made.told) == made.text
        assert all(entry["logprob"] <= 0 for entry in made.told)
        assert not said

    def test_same_seed_same_bits(self, models: list[LocalModel]) -> None:
        first, second = (run_now(build(models, seed=3).attempts(samples())) for _ in range(2))
        assert texts(first) == texts(second)
        assert [a.mean_logprob for a in first] == [a.mean_logprob for a in second]

    def test_index_question_model_and_seed_each_make_a_difference(
        self, models: list[LocalModel]
    ) -> None:
        request = samples(count=1)[0]
        twin = replace(request, question=replace(request.question, question_id="twin"))
        large = Request(question=request.question, action=ActionKind.ESCALATE, rung=1)
        found = run_now(build(models).attempts([request, replace(request, index=1), twin, large]))
        found += run_now(build(models, seed=1).attempts([request]))
        assert len(set(texts(found))) == len(found)


class TestLedger:
    """What is charged is what went through the models."""

    def test_equals_what_the_models_saw(self, models: list[LocalModel]) -> None:
        counts = [TokenCount(local) for local in models]
        requests = samples() + [
            Request(question=question, action=ActionKind.ESCALATE, rung=1, index=index)
            for question in QUESTIONS
            for index in range(2)
        ]
        attempts = run_now(build(models, max_rows=7).attempts(requests))
        for rung, count in enumerate(counts):
            mine = [a for a in attempts if a.rung == rung]
            assert {a.error for a in mine} == {None}
            # The last token of an attempt is never fed back.
            assert count.total == sum(a.usage.processed_tokens - 1 for a in mine)

    def test_first_attempt_pays_the_prompt(self, models: list[LocalModel]) -> None:
        attempts = run_now(build(models).attempts(samples(QUESTIONS[:1], 3)))
        length = attempts[0].prompt_tokens
        assert length == len(models[0].encode(samples(count=1)[0])) == len("7-3-7") + 3
        assert [a.usage.prefill_tokens for a in attempts] == [length, 0, 0]
        assert [a.usage.cached_tokens for a in attempts] == [0, length, length]
        assert all(a.usage.decoded_tokens == a.completion_tokens for a in attempts)
        assert all(a.usage.serial_rounds == 1 and a.usage.wall_s > 0 for a in attempts)

    def test_prompt_is_cached_for_later_calls(self, models: list[LocalModel]) -> None:
        count, backend = TokenCount(models[0]), build(models)
        first, second = samples(QUESTIONS[:1], 2)
        run_now(backend.attempts([first]))
        before = count.total
        (later,) = run_now(backend.attempts([second]))
        assert later.usage.cached_tokens == later.prompt_tokens
        assert later.usage.prefill_tokens == 0
        assert count.total - before == later.completion_tokens - 1

    @pytest.mark.parametrize("room", [0, 1])
    def test_cache_is_bounded(self, models: list[LocalModel], room: int) -> None:
        backend = build(models, max_cached_prompts=room)
        run_now(backend.attempts(samples(QUESTIONS[:2], 1)))
        again = [run_now(backend.attempts(samples([QUESTIONS[i]], 1)))[0] for i in (1, 0)]
        assert [a.usage.cached_tokens > 0 for a in again] == [room == 1, False]

    def test_hidden_states_pay_their_prefill(self, models: list[LocalModel]) -> None:
        count, backend = TokenCount(models[0]), build(models)
        lengths = [state.prompt_tokens[0] for state in run_now(backend.prompt_states(QUESTIONS))]
        assert count.total == 0
        for usage in (s.usage for s in run_now(backend.prompt_states(QUESTIONS, hidden=True))):
            assert usage.prefill_tokens > usage.cached_tokens == 0
        assert count.total == sum(lengths)
        again = run_now(backend.prompt_states(QUESTIONS, hidden=True))
        assert [s.usage.cached_tokens for s in again] == lengths
        attempts = run_now(backend.attempts(samples(count=1)))
        assert [a.usage.cached_tokens for a in attempts] == lengths
        assert count.total == sum(lengths) + sum(a.usage.decoded_tokens - 1 for a in attempts)


class TestModel:
    """The tokens are those that the model says."""

    def test_greedy_equals_generate(self, models: list[LocalModel]) -> None:
        attempts = run_now(build(models, temperature=0.0).attempts(samples(count=1)))
        for attempt, question in zip(attempts, QUESTIONS, strict=True):
            prompt = torch.tensor(
                [models[0].encode(Request(question=question, action=ActionKind.SAMPLE))]
            )
            model: Any = models[0].model
            output = model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                do_sample=False,
                max_new_tokens=MAX_NEW_TOKENS,
            )
            written = output[0, prompt.shape[1] :].tolist()
            assert attempt.completion_tokens == len(written)
            assert attempt.text == models[0].decode(written)

    @pytest.mark.parametrize("temperature", [1.0, 0.7])
    def test_logprobs_equal_those_of_one_forward_pass(
        self, models: list[LocalModel], temperature: float
    ) -> None:
        backend = build(models, temperature=temperature)
        drafts, jobs = backend.rungs[0]._plan(samples())
        prompts = {id(job.generation): job.prompt.tokens for job in jobs}
        backend.rungs[0]._decoder.run(jobs)
        for draft in drafts:
            prompt = prompts[id(draft)]
            ids = torch.tensor([[*prompt, *draft.tokens]])
            with torch.inference_mode():
                logprobs = (
                    models[0].model(input_ids=ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
                )
            written = torch.tensor(draft.tokens)[:, None]
            expected = logprobs.gather(1, written)[:, 0].numpy()
            np.testing.assert_allclose(draft.logprobs, expected, atol=1e-4)

    def test_samples_follow_the_distribution(self, models: list[LocalModel]) -> None:
        requests = samples(QUESTIONS[:1], 2000)
        backend = build(models, max_new_tokens=1)
        drafts, jobs = backend.rungs[0]._plan(requests)
        logits = models[0].model(input_ids=torch.tensor([jobs[0].prompt.tokens])).logits[0, -1]
        backend.rungs[0]._decoder.run(jobs)
        counts = np.bincount([d.tokens[0] for d in drafts], minlength=len(logits))
        expected = logits.softmax(-1).detach().numpy()
        assert np.abs(counts / len(requests) - expected).sum() / 2 < 0.1

    def test_prompt_state_is_the_last_hidden_state(self, models: list[LocalModel]) -> None:
        states = run_now(build(models).prompt_states(QUESTIONS, hidden=True))
        for state, request in zip(states, samples(count=1), strict=True):
            ids = torch.tensor([models[0].encode(request)])
            with torch.inference_mode():
                expected = models[0].model.base_model(input_ids=ids).last_hidden_state[0, -1]
            assert state.hidden is not None
            assert state.hidden.dtype == np.float32
            assert state.hidden.shape == (SHAPE.hidden_size,)
            np.testing.assert_allclose(state.hidden, expected.numpy(), atol=1e-4)
            assert state.prompt_tokens == (ids.shape[1], ids.shape[1])

    def test_ends_with_the_end_token_or_at_the_limit(self, models: list[LocalModel]) -> None:
        attempts = run_now(build(models, max_rows=6).attempts(samples(count=16)))
        lengths = {a.completion_tokens for a in attempts}
        assert max(lengths) == MAX_NEW_TOKENS
        assert min(lengths) < MAX_NEW_TOKENS
        assert not any("<|end|>" in (a.text or "") for a in attempts)

    def test_context_is_never_exceeded(self, models: list[LocalModel]) -> None:
        question = Question(question_id="long", text="9" * (CONTEXT_TOKENS - 8))
        longest = []
        models[0].model.register_forward_pre_hook(
            lambda _module, _args, kwargs: longest.append(int(kwargs["position_ids"].max())),
            with_kwargs=True,
        )
        attempts = run_now(build(models, seed=2).attempts(samples([question], 8)))
        assert max(a.prompt_tokens + a.completion_tokens for a in attempts) == CONTEXT_TOKENS
        assert max(longest) < CONTEXT_TOKENS


class TestOtherModels:
    """Real models differ from the bundled ones."""

    def wrap(self, model: PreTrainedModel, like: LocalModel) -> LocalModel:
        return replace(like, model=model.eval())

    def test_model_that_reads_positions_off_the_mask(self, models: list[LocalModel]) -> None:
        expected = texts(run_now(build(models).attempts(samples())))
        models[0].model._supports_attention_backend = False
        assert texts(run_now(build(models).attempts(samples()))) == expected

    def test_sliding_window_bounds_the_context(self, models: list[LocalModel]) -> None:
        torch.manual_seed(0)
        config = MistralConfig(
            vocab_size=len(models[0].tokenizer),
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            sliding_window=24,
            eos_token_id=None,
        )
        local = self.wrap(MistralForCausalLM(config), models[0])
        assert local.context_tokens == 24
        attempts = run_now(build([local], temperature=0.0).attempts(samples(QUESTIONS[:1], 1)))
        model: Any = local.model
        ids = torch.tensor([local.encode(samples(count=1)[0])])
        written = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=24 - ids.shape[1],
            eos_token_id=sorted(local.end_tokens),
        )
        assert attempts[0].text == local.decode(written[0, ids.shape[1] :].tolist())

    def test_every_end_token_ends(self, models: list[LocalModel]) -> None:
        (whole,) = run_now(build(models).attempts(samples(count=1)[:1]))
        drafts, jobs = build(models).rungs[0]._plan(samples(count=1)[:1])
        build(models).rungs[0]._decoder.run(jobs)
        third = drafts[0].tokens[2]
        models[0].model.generation_config.eos_token_id = [third, models[0].tokenizer.eos_token_id]
        again = [replace(model) for model in models]
        (cut,) = run_now(build(again).attempts(samples(count=1)[:1]))
        assert whole.completion_tokens > cut.completion_tokens
        assert cut.completion_tokens == drafts[0].tokens.index(third) + 1

    def test_model_without_keys_and_values(self, models: list[LocalModel]) -> None:
        config = MambaConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1)
        with pytest.raises(BackendError, match="keys and values"):
            build([self.wrap(MambaForCausalLM(config), models[0])])


class TestRevise:
    """REVISE shows the model its parent."""

    def test_prompt_holds_question_parent_and_instruction(self, models: list[LocalModel]) -> None:
        backend = build(models)
        (parent,) = run_now(backend.attempts(samples(QUESTIONS[:1], 1)))
        request = Request(question=QUESTIONS[0], action=ActionKind.REVISE, parent=parent)
        prompt = models[0].tokenizer.decode(list(models[0].encode(request)))
        assert prompt == (
            f"<|user|>7-3-7<|end|><|assistant|>{parent.text}<|end|>"
            f"<|user|>{REVISE_PROMPT}<|end|><|assistant|>"
        )

    def test_pays_its_whole_prompt_in_every_call(self, models: list[LocalModel]) -> None:
        backend = build(models)
        (parent,) = run_now(backend.attempts(samples(QUESTIONS[:1], 1)))
        request = Request(
            question=QUESTIONS[0], action=ActionKind.REVISE, parent=replace(parent, text="7-3=4")
        )
        for index in range(2):
            (attempt,) = run_now(backend.attempts([replace(request, index=index)]))
            assert attempt.usage.prefill_tokens == attempt.prompt_tokens > parent.prompt_tokens
            assert attempt.attempt_id == f"small:sample:0>revise:{index}"
            assert attempt.parent_id == parent.attempt_id

    def test_without_chat_template(self, models: list[LocalModel]) -> None:
        models[0].tokenizer.chat_template = None
        (parent,) = run_now(build(models).attempts(samples(QUESTIONS[:1], 1)))
        request = Request(question=QUESTIONS[0], action=ActionKind.REVISE, parent=parent)
        prompt = models[0].tokenizer.decode(list(models[0].encode(request)))
        assert prompt == f"7-3-7\n\n{parent.text}\n\n{REVISE_PROMPT}\n\n"


class TestFailure:
    """A generation that fails says so, and harms no other."""

    def check(self, backend: TransformersBackend, bad: Request, healthy: list[Request]) -> Attempt:
        """The failed attempt, after comparing the others with a call of their own."""
        expected = texts(run_now(backend.attempts(healthy)))
        attempts = run_now(backend.attempts([healthy[0], bad, *healthy[1:]]))
        assert texts([attempts[0], *attempts[2:]]) == expected
        assert attempts[1].error is not None
        assert attempts[1].answer is None
        assert all(a.error is None for i, a in enumerate(attempts) if i != 1)
        return attempts[1]

    def test_prompt_longer_than_the_context(self, models: list[LocalModel]) -> None:
        question = Question(question_id="long", text="9" * CONTEXT_TOKENS)
        bad = Request(question=question, action=ActionKind.SAMPLE)
        failed = self.check(build(models), bad, samples())
        assert "context" in str(failed.error)
        assert failed.usage.processed_tokens == 0
        assert run_now(build(models).prompt_states([question], hidden=True))[0].hidden is None

    def test_revise_without_parent(self, models: list[LocalModel]) -> None:
        bad = Request(question=QUESTIONS[0], action=ActionKind.REVISE)
        assert "parent" in str(self.check(build(models), bad, samples()).error)

    def test_prompt_that_the_model_raises_on(self, models: list[LocalModel]) -> None:
        poison = models[0].encode(
            Request(question=Question(question_id="", text="?"), action=ActionKind.SAMPLE)
        )[1]

        def refuse(module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            if kwargs["input_ids"].shape[1] > 1 and (kwargs["input_ids"] == poison).any():
                raise RuntimeError("poison")

        models[0].model.register_forward_pre_hook(refuse, with_kwargs=True)
        bad = Request(question=Question(question_id="bad", text="1?23"), action=ActionKind.SAMPLE)
        failed = self.check(build(models, max_cached_prompts=0), bad, samples())
        assert failed.error == "prefill: poison"
        assert failed.completion_tokens == 0

    def test_prompt_that_makes_logits_nan(self, models: list[LocalModel]) -> None:
        bad = Request(question=Question(question_id="bad", text="1?23"), action=ActionKind.SAMPLE)
        models[0].model.get_input_embeddings().register_forward_hook(
            lambda _module, args, output: output.masked_fill(
                (args[0] == models[0].encode(bad)[2])[..., None] & (args[0].shape[1] > 1), torch.nan
            )
        )
        failed = self.check(build(models, max_cached_prompts=0), bad, samples())
        assert "finite" in str(failed.error)
        assert failed.usage.prefill_tokens == failed.prompt_tokens

    @pytest.mark.parametrize("raises", [False, True])
    def test_failure_while_writing_spares_the_neighbours(
        self, models: list[LocalModel], raises: bool
    ) -> None:
        requests = samples(count=16)
        drafts, jobs = build(models).rungs[0]._plan(requests)
        build(models).rungs[0]._decoder.run(jobs)
        poison = drafts[0].tokens[3]

        def spoil(module: torch.nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
            (ids,) = args
            bad = (ids == poison) & (ids.shape[1] == 1)  # (N, 1)
            if raises and bad.any():
                raise RuntimeError("out of memory")
            return output.masked_fill(bad[..., None], torch.nan)

        models[0].model.get_input_embeddings().register_forward_hook(spoil)
        attempts = run_now(build(models, max_rows=9).attempts(requests))
        for attempt, draft in zip(attempts, drafts, strict=True):
            tokens = draft.tokens
            if poison in tokens[:-1]:
                assert attempt.error is not None
                assert ("out of memory" if raises else "finite") in attempt.error
                assert attempt.completion_tokens == tokens.index(poison) + 1
            else:
                assert attempt.error is None
                assert attempt.completion_tokens == len(tokens)
        assert any(a.error for a in attempts)
        assert not all(a.error for a in attempts)
        assert any(a.usage.cancelled_tokens for a in attempts) == raises


class TestLoading:
    """Models come from directories, or not at all."""

    def test_spec(self, models: list[LocalModel]) -> None:
        spec = build(models).models[0]
        assert (spec.name, spec.rung, spec.max_new_tokens) == ("small", 0, MAX_NEW_TOKENS)
        assert spec.parameters == sum(p.numel() for p in models[0].model.parameters())

    def test_untied_embedding_does_not_count(self, paths: list[Path]) -> None:
        tied = load_model(paths[0], 0)
        config = tied.model.config
        config.tie_word_embeddings = False
        untied = type(tied.model)(config)
        assert active_parameters(untied) == tied.parameters

    def test_digest_tells_weights_apart(self, paths: list[Path], models: list[LocalModel]) -> None:
        assert load_model(paths[0], 0).digest == models[0].digest != models[1].digest
        with torch.no_grad():
            next(models[0].model.parameters())[0, 0] += 1e-3
        assert weights_digest(dict(models[0].model.named_parameters())) != models[0].digest

    def test_missing_directory(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="expected a directory"):
            load_model(tmp_path / "nowhere", 0)

    def test_a_server_is_not_loaded(self) -> None:
        with pytest.raises(ConfigError, match="found the server"):
            load_model("http://127.0.0.1:1/v1#m", 0)

    def test_unknown_numbers(self, paths: list[Path]) -> None:
        with pytest.raises(BackendError, match="no attribute 'float17'"):
            load_model(paths[0], 0, dtype="float17")

    def test_missing_tokenizer(self, paths: list[Path], tmp_path: Path) -> None:
        load_model(paths[0], 0).model.save_pretrained(tmp_path)
        with pytest.raises(BackendError, match="tokenizer"):
            load_model(tmp_path, 0)

    def test_bfloat16(self, paths: list[Path]) -> None:
        backend = build([load_model(paths[0], 0, dtype=torch.bfloat16)])
        assert {a.error for a in run_now(backend.attempts(samples(count=1)))} == {None}
        hidden = run_now(backend.prompt_states(QUESTIONS[:1], hidden=True))[0].hidden
        assert hidden is not None
        assert hidden.dtype == np.float32

    @pytest.mark.parametrize(
        ("name", "value"),
        [("temperature", -1.0), ("max_new_tokens", 0), ("max_rows", 0), ("max_cached_prompts", -1)],
    )
    def test_settings_out_of_range(self, models: list[LocalModel], name: str, value: float) -> None:
        with pytest.raises(ConfigError, match=name):
            build(models, **{name: value})

    def test_rungs_out_of_order(self, models: list[LocalModel]) -> None:
        with pytest.raises(ConfigError, match="rungs"):
            build(models[::-1])
        with pytest.raises(ConfigError, match="rung"):
            run_now(
                build(models[:1]).attempts(
                    [Request(question=QUESTIONS[0], action=ActionKind.ESCALATE, rung=1)]
                )
            )
