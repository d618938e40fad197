import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tokenizers import Tokenizer

from server.errors import CheckpointError, UnsupportedModelError
from weights.default import default_gguf
from weights.gguf.file import read_gguf
from weights.gguf.tokenizer import merges_by_score, write_tokenizer

WriteGGUF = Callable[..., Path]

SENTENCEPIECE: dict[str, Any] = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.pre": None,
    "tokenizer.ggml.merges": None,
    "tokenizer.ggml.add_bos_token": None,
    "tokenizer.ggml.tokens": [
        *("<unk>", "<s>", "</s>"),
        *(f"<0x{byte:02X}>" for byte in range(256)),
        *("▁", "a", "b", "c", "▁a", "ab", "▁ab", "bc"),
    ],
    "tokenizer.ggml.scores": [0.0] * 259 + [-9.0, -9.0, -9.0, -9.0, -2.0, -1.0, -3.0, -0.5],
    "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * 8,
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.unknown_token_id": 0,
}


def written(path: Path, folder: Path) -> tuple[Tokenizer, dict[str, Any]]:
    write_tokenizer(read_gguf(path), folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    return Tokenizer.from_file(str(folder / "tokenizer.json")), config


def test_byte_level(write_gguf: WriteGGUF, tmp_path: Path) -> None:
    tokenizer, config = written(write_gguf(), tmp_path)
    encoded = tokenizer.encode("<|start|>ab c<|end|>")
    assert encoded.tokens == ["<|start|>", "ab", "Ġc", "<|end|>"]
    assert encoded.ids == [0, 8, 10, 1]
    assert tokenizer.decode(encoded.ids, skip_special_tokens=False) == "<|start|>ab c<|end|>"
    assert tokenizer.decode(encoded.ids) == "ab c"
    assert (config["bos_token"], config["eos_token"]) == ("<|start|>", "<|end|>")
    assert config["chat_template"] == "{{ messages[0]['content'] }}"


def test_smollm_sets_digits_apart_before_spaces_are_joined(
    write_gguf: WriteGGUF, tmp_path: Path
) -> None:
    tokenizer, _ = written(write_gguf(), tmp_path)
    assert tokenizer.encode("a  12").tokens == ["a", "ĠĠ", "1", "2"]
    other, _ = written(write_gguf(metadata={"tokenizer.ggml.pre": "gpt-2"}), tmp_path)
    assert other.encode("a  12").tokens == ["a", "Ġ", "Ġ", "1", "2"]


def test_user_defined_tokens_are_whole_but_not_special(
    write_gguf: WriteGGUF, tmp_path: Path
) -> None:
    types = [3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 4]
    tokens = ["<|start|>", "<|end|>", "a", "b", "c", "1", "2", "Ġ", "ab", "ĠĠ", "<b a>"]
    path = write_gguf(
        metadata={
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": types,
            "tokenizer.ggml.merges": ["a b"],
        }
    )
    tokenizer, _ = written(path, tmp_path)
    assert tokenizer.encode("a<b a>").ids == [2, 10]
    assert tokenizer.decode([2, 10]) == "a<b a>"


@pytest.mark.parametrize(("name", "begins"), [("llama-bpe", True), ("qwen2", False)])
def test_begin_token_where_the_file_does_not_say(
    write_gguf: WriteGGUF, tmp_path: Path, name: str, begins: bool
) -> None:
    metadata = {"tokenizer.ggml.pre": name, "tokenizer.ggml.add_bos_token": None}
    tokenizer, _ = written(write_gguf(metadata=metadata), tmp_path)
    assert tokenizer.encode("ab").ids == ([0, 8] if begins else [8])


def test_sentencepiece(write_gguf: WriteGGUF, tmp_path: Path) -> None:
    tokenizer, config = written(write_gguf(metadata=SENTENCEPIECE), tmp_path)
    assert config["add_bos_token"] is True
    assert tokenizer.encode("ab").tokens == ["<s>", "▁ab"]
    assert tokenizer.encode("abc a").tokens == ["<s>", "▁a", "bc", "▁a"]
    ids = tokenizer.encode("ab é").ids
    assert tokenizer.encode("ab é").tokens[-2:] == ["<0xC3>", "<0xA9>"]
    assert tokenizer.decode(ids) == "ab é"


def test_sentencepiece_without_a_space_in_front(write_gguf: WriteGGUF, tmp_path: Path) -> None:
    metadata = SENTENCEPIECE | {"tokenizer.ggml.add_space_prefix": False}
    tokenizer, _ = written(write_gguf(metadata=metadata), tmp_path)
    assert tokenizer.encode("ab", add_special_tokens=False).tokens == ["ab"]


def test_merges_by_score_ranks_the_best_token_first() -> None:
    tokens, scores = ["a", "b", "ab", "aba", "ba"], [0.0, 0.0, -3.0, -1.0, -2.0]
    assert merges_by_score(tokens, scores) == [("a", "ba"), ("ab", "a"), ("b", "a"), ("a", "b")]


@pytest.mark.parametrize(
    ("metadata", "text"),
    [
        (
            {"tokenizer.ggml.pre": "afmoe"},
            "tokenizer.ggml.pre='afmoe' is not supported; supported: ",
        ),
        ({"tokenizer.ggml.pre": None}, "tokenizer.ggml.pre=None is not supported (an old file"),
        ({"tokenizer.ggml.model": "rwkv"}, "tokenizer.ggml.model='rwkv' is not supported"),
    ],
)
def test_unknown_tokenizers_are_refused(
    write_gguf: WriteGGUF, tmp_path: Path, metadata: dict[str, Any], text: str
) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        written(write_gguf(metadata=metadata), tmp_path)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("metadata", "text"),
    [
        ({"tokenizer.ggml.tokens": None}, "metadata has no tokenizer.ggml.tokens"),
        ({"tokenizer.ggml.merges": None}, "metadata has no tokenizer.ggml.merges"),
        ({"tokenizer.ggml.merges": ["ab"]}, "tokenizer merge 'ab' is no pair"),
        ({"tokenizer.ggml.merges": ["a z"]}, "tokenizer merge 'a z' is not in the vocabulary"),
        (SENTENCEPIECE | {"tokenizer.ggml.scores": [0.0]}, "has 267 tokens, but 1 scores"),
        ({"tokenizer.ggml.eos_token_id": 99}, "eos token 99 is outside of the vocabulary"),
    ],
)
def test_inconsistent_vocabularies(
    write_gguf: WriteGGUF, tmp_path: Path, metadata: dict[str, Any], text: str
) -> None:
    path = write_gguf(metadata=metadata)
    with pytest.raises(CheckpointError) as caught:
        written(path, tmp_path)
    assert str(caught.value) == f"{path}: {text}"


@pytest.mark.parametrize("begin", [True, False])
@pytest.mark.parametrize("end", [True, False])
def test_texts_begin_and_end_as_the_file_says(
    write_gguf: WriteGGUF, tmp_path: Path, begin: bool, end: bool
) -> None:
    metadata = {"tokenizer.ggml.add_bos_token": begin, "tokenizer.ggml.add_eos_token": end}
    tokenizer, config = written(write_gguf(metadata=metadata), tmp_path)
    assert (config["add_bos_token"], config["add_eos_token"]) == (begin, end)
    assert tokenizer.encode("ab").ids == [0] * begin + [8] + [1] * end
    assert tokenizer.encode("ab", add_special_tokens=False).ids == [8]


def test_several_chat_templates(write_gguf: WriteGGUF, tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    from server.text.chat_template import ChatTemplate

    metadata = {
        "tokenizer.chat_template": "plain {{ messages[0]['content'] }}",
        "tokenizer.chat_templates": ["tool_use", "rag"],
        "tokenizer.chat_template.tool_use": "{{ tools[0]['function']['name'] }}",
        "tokenizer.chat_template.rag": "documents",
    }
    written(write_gguf(metadata=metadata), tmp_path)
    loaded: Any = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    template = ChatTemplate(loaded, "tiny")
    message = {"role": "user", "content": "hi"}
    function = {"name": "look", "description": "", "parameters": {}}
    assert template.render([message]) == "plain hi"
    assert template.render([message], [{"type": "function", "function": function}]) == "look"
    assert template.knows_tools


def test_a_template_under_a_name_alone_is_the_template(
    write_gguf: WriteGGUF, tmp_path: Path
) -> None:
    metadata = {
        "tokenizer.chat_template": None,
        "tokenizer.chat_templates": ["tool_use"],
        "tokenizer.chat_template.tool_use": "{{ messages[0]['content'] }}",
    }
    _, config = written(write_gguf(metadata=metadata), tmp_path)
    assert config["chat_template"] == "{{ messages[0]['content'] }}"


PIECES = [
    *("<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))),
    *("▁", "t", "h", "e", "a", "c", "s", "l", "o", "n", ".", "é"),
    *("▁t", "th", "he", "▁th", "▁the", "the", "▁c", "▁a", "at", "ca", "cat", "▁cat", "▁▁"),
    *("on", "lo", "lon", "es", "ne", "se", "ea", "s.", "<mask>", "  "),
]
SCORES = [0.0] * 259 + [-1000.0] * 12 + [-(((7 * i) % 23) + 1.0) for i in range(21)] + [0.0] * 2


def best_neighbours_first(text: str) -> list[str]:
    """SentencePiece's algorithm: the neighbours whose token has the best score are joined, the
    leftmost of equal ones, until none are left; what is no token then falls apart into bytes."""
    parts, scores = list(text), dict(zip(PIECES, SCORES, strict=True))
    while pairs := [
        (-scores[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in scores
    ]:
        at = min(pairs)[1]
        parts[at : at + 2] = ["".join(parts[at : at + 2])]
    found = ([part] if part in scores else as_bytes(part) for part in parts)
    return [piece for pieces in found for piece in pieces]


def as_bytes(text: str) -> list[str]:
    return [f"<0x{byte:02X}>" for byte in text.encode()]


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_against_its_definition(
    write_gguf: WriteGGUF, tmp_path: Path, prefix: bool
) -> None:
    metadata = SENTENCEPIECE | {
        "tokenizer.ggml.tokens": PIECES,
        "tokenizer.ggml.scores": SCORES,
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * 33 + [4] * 2,
        "tokenizer.ggml.add_space_prefix": prefix,
    }
    tokenizer, _ = written(write_gguf(metadata=metadata), tmp_path)
    random = Random(0)
    for _ in range(300):
        text = "".join(random.choices("the cat lone.é\n🙂", k=random.randint(1, 24)))
        text = re.sub(" +", " ", text)  # two spaces are a user-defined token of their own
        expected = best_neighbours_first(("▁" if prefix else "") + text.replace(" ", "▁"))
        assert tokenizer.encode(text, add_special_tokens=False).tokens == expected, text
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    whole = tokenizer.encode("the<mask>a  a</s>", add_special_tokens=False).tokens
    begin = ["▁the"] if prefix else ["the"]
    after = ["▁a"] if prefix else ["a"]
    assert whole == [*begin, "<mask>", *after, "  ", *after, "</s>"]


def test_a_text_that_is_two_tokens(write_gguf: WriteGGUF, tmp_path: Path) -> None:
    tokens = ["<|start|>", "<|end|>", "a", "b", "a", "ab"]
    path = write_gguf(
        metadata={
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": [1] * 6,
            "tokenizer.ggml.merges": ["a b"],
        }
    )
    with pytest.raises(CheckpointError, match="tokens 2 and 4 are both 'a'"):
        written(path, tmp_path)


def test_empty_tokens_keep_their_places(write_gguf: WriteGGUF, tmp_path: Path) -> None:
    tokens = ["<|start|>", "<|end|>", "", "a", "", "b", "ab"]
    path = write_gguf(
        metadata={
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": [3, 3, 1, 1, 1, 1, 1],
            "tokenizer.ggml.merges": ["a b"],
        }
    )
    tokenizer, _ = written(path, tmp_path)
    assert tokenizer.encode("ab").ids == [6]


@pytest.mark.real_model
def test_default_model(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    write_tokenizer(read_gguf(default_gguf()), tmp_path)
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path)
    for index, token in enumerate(("<|endoftext|>", "<|im_start|>", "<|im_end|>")):
        assert tokenizer(token).input_ids == [index]
    messages = [{"role": "user", "content": "Hi"}]
    shown = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert shown == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    text = "def f(x):\n    return x + 10  # né 日本 🎉"
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.convert_ids_to_tokens(ids)[:6] == ["def", "Ġf", "(", "x", "):", "ĊĠĠĠ"]
    # transformers reads the same file without setting digits apart; elsewhere the two agree.
    theirs: Any = AutoTokenizer.from_pretrained(
        default_gguf().parent, gguf_file=default_gguf().name
    )
    assert theirs(text).input_ids == ids
    assert tokenizer.convert_ids_to_tokens(tokenizer("a  1").input_ids) == ["a", "ĠĠ", "1"]
    assert theirs.convert_ids_to_tokens(theirs("a  1").input_ids) == ["a", "Ġ", "Ġ", "1"]
