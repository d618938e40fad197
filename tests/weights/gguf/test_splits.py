"""Ids, against tokenizers of the `tokenizers` library as the models publish them.

Each is trained on a few lines with its own pipeline, written into a GGUF file as llama.cpp's
converter would, and read back.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from weights.gguf.file import read_gguf
from weights.gguf.splits import SPLITS
from weights.gguf.tokenizer import write_tokenizer

WriteGGUF = Callable[..., Path]

TEXTS = (
    "It's 2024, DON'T say we'LL meet at 12:30 on 1 000 000 streets; they've 12345678 reasons.",
    "  two  spaces,\ttabs\t\tand   more   \n\n\n  lines \r\n\r\n end  \n ",
    "def f(x_1: int) -> str:\n    return f'{x:>10}' + \"\\n\" * (2 ** 10) // 3 != 007\n\n\n# eof",
    "CamelCase HTTPServer iPhone ÉCOLE élan Straße ΑΒΓαβγ Привет МИР ǅ ᾳ",
    "re\u0301sume\u0301 n\u0303 \u1100\u1161\u11a8 compose\u0301d",
    "日本語のテスト、漢字とかな。中文\uff0c标点\uff01한국어 문장 ㄱㄴ ㄅㄆ",
    "नमस्ते दुनिया। ภาษาไทย العربية، ١٢٣٤ עברית ০১২ ½ ² Ⅷ",
    "🙂👩‍👩‍👧 ☃️ — “quotes” \u2018x\u2019 … £5 €6.50 $7 ^~`|<=> a/b//c\n/path/to\n",
    "'S 'M 'Re ' s x'y ''' -- == !! ?? ... ,,,",
    "\u3000wide\u00a0space\u200bzero\x0bvertical\x85next",
    "",
    " ",
    "a",
)


class Pipeline(NamedTuple):
    """What a tokenizer.json says beside the vocabulary."""

    pre_tokenizer: Any
    normalizer: Any = None
    whole_words: bool = False


def of_class(name: str) -> Pipeline:
    """That of a class of transformers, whose vocabulary is empty."""
    import transformers

    made = getattr(transformers, name)().backend_tokenizer
    return Pipeline(made.pre_tokenizer, made.normalizer)


def split(*patterns: str, whole_words: bool = False, compose: bool = False) -> Pipeline:
    steps = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    composed = normalizers.NFC() if compose else None
    return Pipeline(pre_tokenizers.Sequence([*steps, byte_level]), composed, whole_words)


def of_gguf_reader(rule: str, whole_words: bool = False) -> Pipeline:
    """By the expression that transformers' own GGUF reader has for a rule."""
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    return split(GGUF_PRE_TOKENIZER_SPLITS[rule], whole_words=whole_words)


def digits_apart() -> Pipeline:
    digits = pre_tokenizers.Digits(individual_digits=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return Pipeline(pre_tokenizers.Sequence([digits, byte_level]))


def falcon() -> Pipeline:
    steps = [
        pre_tokenizers.Punctuation("contiguous"),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        pre_tokenizers.Digits(individual_digits=False),
        pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated"),
    ]
    return Pipeline(pre_tokenizers.Sequence(steps))


PIPELINES: Mapping[str, Callable[[], Pipeline]] = {
    "gpt-2": lambda: of_class("GPT2Tokenizer"),
    "phi-2": lambda: of_class("CodeGenTokenizer"),
    "qwen2": lambda: of_class("Qwen2Tokenizer"),
    "qwen35": lambda: of_class("Qwen3_5Tokenizer"),
    "command-r": lambda: of_class("CohereTokenizer"),
    "olmo": lambda: of_class("GPTNeoXTokenizer"),
    "mpt": lambda: of_class("GPTNeoXTokenizer"),
    "llama-bpe": lambda: of_gguf_reader("llama-bpe", whole_words=True),
    "tekken": lambda: of_gguf_reader("tekken", whole_words=True),
    "deepseek-r1-qwen": lambda: of_gguf_reader("deepseek-r1-qwen"),
    "dbrx": lambda: of_gguf_reader("dbrx"),
    "gpt-4o": lambda: of_gguf_reader("gpt-4o"),
    "smollm": digits_apart,
    "starcoder": digits_apart,
    "refact": digits_apart,
    "falcon": falcon,
}


def trained(pipeline: Pipeline) -> Tokenizer:
    """Byte-pair encoding of some 200 merges, with one control and one user-defined token."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=pipeline.whole_words))
    tokenizer.pre_tokenizer = pipeline.pre_tokenizer
    if pipeline.normalizer is not None:
        tokenizer.normalizer = pipeline.normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=460,
        show_progress=False,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator([*TEXTS] * 3, trainer)
    tokenizer.add_tokens(["<tool call>"])
    return tokenizer


def gguf_metadata(tokenizer: Tokenizer, rule: str) -> dict[str, Any]:
    state = json.loads(tokenizer.to_str())
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    types = {"<|end|>": 3, "<tool call>": 4}
    return {
        "tokenizer.ggml.pre": rule,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [types.get(token, 1) for token in tokens],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in state["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": None,
        "tokenizer.ggml.eos_token_id": vocabulary["<|end|>"],
    }


@pytest.mark.parametrize("rule", PIPELINES)
def test_ids_are_those_of_the_tokenizer_that_the_file_was_made_from(
    write_gguf: WriteGGUF, tmp_path: Path, rule: str
) -> None:
    theirs = trained(PIPELINES[rule]())
    write_tokenizer(read_gguf(write_gguf(metadata=gguf_metadata(theirs, rule))), tmp_path)
    ours = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in (*TEXTS, f"{TEXTS[0]}<|end|>{TEXTS[1]}<tool call>x", "<tool  call>"):
        assert ours.encode(text).ids == theirs.encode(text).ids, text
        decoded = ours.decode(ours.encode(text).ids, skip_special_tokens=False)
        if theirs.normalizer is None:
            assert decoded == text


SHOWN = "Don't  x12345 HTTPServer's\n\n  日本 end "
WORDS: Mapping[str, str] = {
    "gpt-2": "Don|'t| | x|12345| HTTPServer|'s|\n\n | 日本| end| ",
    "smollm": "Don|'t| | x|1|2|3|4|5| HTTPServer|'s|\n\n | 日本| end| ",
    "llama-bpe": "Don|'t| | x|123|45| HTTPServer|'s|\n\n| | 日本| end| ",
    "qwen2": "Don|'t| | x|1|2|3|4|5| HTTPServer|'s|\n\n| | 日本| end| ",
    "tekken": "Don|'t| | x|1|2|3|4|5| HTTPServer|'s|\n\n| | 日本| end| ",
    "gpt-4o": "Don't| | x|123|45| HTTPServer's|\n\n| | 日本| end| ",
    "deepseek-llm": "Don|'|t| | x|12345| HTTPServer|'|s|\n|\n|  |日本| end| ",
    "deepseek-coder": "Don|'|t| | x|1|2|3|4|5| HTTPServer|'|s|\n|\n| | |日本| end| ",
    "deepseek-v3": "Don|'t| | x|123|45| HTTPServer|'s|\n\n|  |日本| end| ",
    "falcon": "Don|'|t| | x|123|45| HTTPServer|'|s|\n\n | 日本| end| ",
    "bailingmoe": "Don|'t| | x|1|2|3|4|5| HTTPServer|'s|\n\n| | 日本| end| ",
    "seed-coder": "Don|'t| | x|1|2|3|4|5| HTTPServer|'s|\n\n| | 日本| end| ",
    "bloom": "Don't| | x12345| HTTPServer's|\n\n | 日本| end| ",
    "viking": "Don't| | x|1|2|3|4|5| HTTPServer's|\n\n | 日本| end| ",
}


@pytest.mark.parametrize("rule", WORDS)
def test_words_of_a_line(rule: str) -> None:
    """Seen here at a glance: where digits, contractions, lines and scripts are cut."""
    spans = SPLITS[rule].build().pre_tokenize_str(SHOWN)
    assert "|".join(SHOWN[start:end] for _, (start, end) in spans) == WORDS[rule]


@pytest.mark.parametrize("rule", SPLITS)
def test_every_rule_keeps_the_text(rule: str) -> None:
    for text in TEXTS:
        words = SPLITS[rule].build().pre_tokenize_str(text)
        assert "".join(text[start:end] for _, (start, end) in words) == text
