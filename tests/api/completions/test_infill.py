"""`suffix`: prompts of models that fill in the middle, by the marks of their tokenizers."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as BackendTokenizer
from tokenizers.processors import TemplateProcessing

from server.text.infill import find_infill
from server.text.tokenizer import Tokenizer, from_hf, load_hf_tokenizer
from tests.api.harness import COMPLETIONS, INFO, assert_error, chunks, in_process, make_app
from tests.doubles import BOS, EOS, EOS_ID, ScriptedEngine, byte_backend, ids, one_by_one

QWEN = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|file_sep|>")
STARCODER = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<file_sep>")
FIRST = EOS_ID + 1
WIDE = replace(INFO, vocab_size=FIRST + 8)


def marked(marks: tuple[str, ...]) -> Tokenizer:
    """The byte tokenizer, then a family's marks: before, behind, middle and an end."""
    backend = byte_backend()
    backend.add_special_tokens([AddedToken(mark, special=True) for mark in marks])
    return Tokenizer(backend, eos_id=EOS_ID)


def codellama_backend() -> BackendTokenizer:
    """SentencePiece's way: a start token, and a space in front of each text."""
    pieces = [BOS, EOS, "<unk>", *"▁abcd", "▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"]
    backend = BackendTokenizer(
        models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], unk_token="<unk>")
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.post_processor = TemplateProcessing(f"{BOS} $A", None, [(BOS, 0)])
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    backend.add_special_tokens([AddedToken(mark, special=True) for mark in pieces[-4:]])
    return backend


def by_normalizer(folder: Path) -> Tokenizer:
    return Tokenizer(codellama_backend(), eos_id=1, bos_id=0)


def by_pre_tokenizers(folder: Path) -> Tokenizer:
    backend = codellama_backend()
    backend.normalizer = None
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="always", split=False)]
    )
    return Tokenizer(backend, eos_id=1, bos_id=0)


def read_by(cls: str) -> Callable[[Path], Tokenizer]:
    """One of transformers' classes makes it of a folder."""

    def read(folder: Path) -> Tokenizer:
        (folder / "tokenizer.json").write_text(codellama_backend().to_str())
        names = {"bos_token": BOS, "eos_token": EOS, "unk_token": "<unk>"}
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": cls, **names}))
        return from_hf(load_hf_tokenizer(folder))

    return read


async def ask(tokenizer: Tokenizer, engine: ScriptedEngine, **fields: Any) -> httpx.Response:
    async with in_process(make_app(engine, tokenizer, info=WIDE)) as client:
        return await client.post(COMPLETIONS, json={"prompt": "ab", "suffix": "cd", **fields})


@pytest.mark.parametrize("marks", [QWEN, STARCODER])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_gap_is_filled(marks: tuple[str, ...], stream: bool) -> None:
    engine = ScriptedEngine(one_by_one("xy"))
    response = await ask(marked(marks), engine, stream=stream, return_token_ids=True)
    (request,) = engine.requests
    expected = [FIRST, *ids("ab"), FIRST + 1, *ids("cd"), FIRST + 2]
    assert list(request.prompt_token_ids) == expected
    assert request.params.stop_token_ids >= {FIRST, FIRST + 1, FIRST + 2, FIRST + 3}
    if stream:
        choices = [choice for chunk in chunks(response.text) for choice in chunk["choices"]]
        assert "".join(choice["text"] for choice in choices) == "xy"
    else:
        assert response.json()["choices"][0]["text"] == "xy"
        assert response.json()["choices"][0]["prompt_token_ids"] == expected
        assert response.json()["usage"]["prompt_tokens"] == len(expected)


@pytest.mark.parametrize(
    "make",
    [
        by_normalizer,
        by_pre_tokenizers,
        read_by("CodeLlamaTokenizer"),
        read_by("LlamaTokenizerFast"),
        read_by("PreTrainedTokenizerFast"),
    ],
)
async def test_codellama_has_a_start_token_and_no_space_in_front(
    make: Callable[[Path], Tokenizer], tmp_path: Path
) -> None:
    tokenizer, engine = make(tmp_path), ScriptedEngine([[1]])
    vocab = tokenizer.backend.get_vocab()
    pieces = [BOS, "▁<PRE>", "a", "b", "▁<SUF>", "c", "▁", "d", "▁<MID>"]
    expected = [vocab[piece] for piece in pieces]
    assert (await ask(tokenizer, engine, suffix="c d")).status_code == 200
    assert list(engine.requests[0].prompt_token_ids) == expected
    assert vocab["▁<EOT>"] in engine.requests[0].params.stop_token_ids
    start_ids = tokenizer.encode("", add_special_tokens=True)
    await ask(tokenizer, engine, prompt=[*start_ids, vocab["a"], vocab["b"]], suffix="c d")
    assert list(engine.requests[1].prompt_token_ids) == expected


async def test_bytes_with_a_space_in_front() -> None:
    backend = marked(QWEN).backend
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)]
    )
    engine = ScriptedEngine(one_by_one("x"))
    assert (await ask(Tokenizer(backend, eos_id=EOS_ID), engine)).status_code == 200
    expected = [FIRST, *ids("ab"), FIRST + 1, *ids("cd"), FIRST + 2]
    assert list(engine.requests[0].prompt_token_ids) == expected


async def test_many_prompts_have_one_suffix() -> None:
    engine = ScriptedEngine(one_by_one("x"))
    assert (await ask(marked(QWEN), engine, prompt=["a", "b"])).status_code == 200
    prompts = [list(request.prompt_token_ids) for request in engine.requests]
    assert prompts == [[FIRST, *ids(t), FIRST + 1, *ids("cd"), FIRST + 2] for t in "ab"]


async def test_what_can_not_be_filled_is_refused() -> None:
    engine = ScriptedEngine([])
    response = await ask(Tokenizer(byte_backend(), eos_id=EOS_ID), engine)
    error = assert_error(response, 400, "unsupported_field", "suffix")
    assert "filling in the middle" in error["message"]
    response = await ask(marked(QWEN), engine, echo=True)
    assert_error(response, 400, "invalid_value", "echo")
    response = await ask(marked(QWEN), engine, truncate_prompt_tokens=3)
    assert_error(response, 400, "invalid_value", "truncate_prompt_tokens")
    response = await ask(marked(QWEN), engine, suffix="c" * 1000)
    assert_error(response, 400, "context_length_exceeded", "prompt")
    assert engine.requests == []


@pytest.mark.parametrize("ignores", [False, True])
async def test_ends_of_a_gap_can_be_ignored(ignores: bool) -> None:
    """Then only the tokens that the request names end the answer."""
    engine = ScriptedEngine([])
    await ask(marked(QWEN), engine, ignore_eos=ignores, stop_token_ids=[7], max_tokens=1)
    (request,) = engine.requests
    ends = {FIRST, FIRST + 1, FIRST + 2, FIRST + 3}
    assert request.params.stop_token_ids == ({7} if ignores else {7} | ends)
    assert request.params.ignore_eos is ignores


async def test_no_suffix_asks_for_nothing() -> None:
    for suffix in (None, ""):
        engine = ScriptedEngine(one_by_one("x"))
        assert (await ask(marked(QWEN), engine, suffix=suffix)).status_code == 200
        assert list(engine.requests[0].prompt_token_ids) == ids("ab")


def test_marks_that_the_model_does_not_know() -> None:
    assert find_infill(marked(QWEN), FIRST + 2) is None
    assert find_infill(marked(QWEN), FIRST + 3) is not None
