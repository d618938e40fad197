"""GGUF metadata → `tokenizer.json` and `tokenizer_config.json`.

Built with the tokenizers library rather than through transformers' GGUF reader: that one splits
`smollm` text without setting digits apart, which changes the ids of spaces before numbers, and
falls back to GPT-2's splitting where it does not know the file's. Here an unknown one is refused.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from server.errors import CheckpointError, UnsupportedModelError
from weights.gguf.file import GGUFFile
from weights.gguf.splits import BEGIN_BY_DEFAULT, SPLITS

_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4  # values of tokenizer.ggml.token_type
_SPACE = "▁"


def write_tokenizer(file: GGUFFile, folder: Path) -> None:
    """Writes both files; the second holds the chat template too.

    Raises:
        CheckpointError: the metadata lacks the vocabulary or is inconsistent.
        UnsupportedModelError: a tokenizer model or a splitting rule that is not implemented.
    """
    config = _config(file)
    tokenizer = _build(file)
    tokenizer.add_special_tokens(_added(file, special=True))
    tokenizer.add_tokens(_added(file, special=False))
    if config["add_bos_token"]:
        _begin_with(tokenizer, config["bos_token"])
    tokenizer.save(str(folder / "tokenizer.json"))
    text = json.dumps(config, indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")


def _build(file: GGUFFile) -> Tokenizer:
    kind = file.metadata.get("tokenizer.ggml.model")
    if kind == "gpt2":
        return _byte_level(file)
    if kind == "llama":
        return _sentencepiece(file)
    raise UnsupportedModelError(
        f"{file.path}: tokenizer.ggml.model={kind!r} is not supported; supported: gpt2, llama"
    )


def _byte_level(file: GGUFFile) -> Tokenizer:
    """Byte-pair encoding over GPT-2's byte alphabet: SmolLM, Llama 3, Qwen."""
    name = file.metadata.get("tokenizer.ggml.pre")
    if name not in SPLITS:
        raise UnsupportedModelError(
            f"{file.path}: tokenizer.ggml.pre={name!r} is not supported; supported: "
            + ", ".join(SPLITS)
        )
    split = SPLITS[name]
    vocabulary = _vocabulary(file)
    merges = [_pair(file, merge, vocabulary) for merge in _list(file, "merges")]
    model = models.BPE(vocabulary, merges, ignore_merges=split.whole_words)
    tokenizer = Tokenizer(model)
    if split.compose:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = split.build()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(file: GGUFFile) -> Tokenizer:
    """Byte-pair encoding over characters, bytes as a last resort: Llama 2, Mistral 7B."""
    prefix = bool(file.metadata.get("tokenizer.ggml.add_space_prefix", True))
    vocabulary, tokens = _vocabulary(file), _list(file, "tokens")
    scores = _list(file, "scores")
    if len(scores) != len(tokens):
        raise CheckpointError(file.path, f"has {len(tokens)} tokens, but {len(scores)} scores")
    unknown = file.metadata.get("tokenizer.ggml.unknown_token_id")
    model = models.BPE(
        vocabulary,
        merges_by_score(tokens, scores),
        unk_token=None if unknown is None else tokens[unknown],
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    replace = normalizers.Replace(" ", _SPACE)
    prepend = [normalizers.Prepend(_SPACE)] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*prepend, replace])
    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = decoders.Sequence([*steps, *strip])
    return tokenizer


def merges_by_score(tokens: list[str], scores: list[float]) -> list[tuple[str, str]]:
    """The merges that a SentencePiece vocabulary implies, best first.

    SentencePiece merges whichever neighbours make the token of the highest score; so every way to
    cut a token into two others is a merge, ranked by the token's score.
    """
    ids = {token: index for index, token in enumerate(tokens)}
    ranked: list[tuple[float, int, int]] = []
    for token, score in zip(tokens, scores, strict=True):
        for cut in range(1, len(token)):
            left, right = ids.get(token[:cut]), ids.get(token[cut:])
            if left is not None and right is not None:
                ranked.append((-score, left, right))
    return [(tokens[left], tokens[right]) for _, left, right in sorted(ranked)]


def _config(file: GGUFFile) -> dict[str, Any]:
    get = file.metadata.get
    tokens = _list(file, "tokens")
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    ids = {ours: get(f"tokenizer.ggml.{theirs}_token_id") for ours, theirs in names.items()}
    for name, index in ids.items():
        if index is not None and index not in range(len(tokens)):
            raise CheckpointError(file.path, f"{name} token {index} is outside of the vocabulary")
    default = (
        get("tokenizer.ggml.model") == "llama" or get("tokenizer.ggml.pre") in BEGIN_BY_DEFAULT
    )
    begin = bool(get("tokenizer.ggml.add_bos_token", default)) and ids["bos"] is not None
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": begin,
        "clean_up_tokenization_spaces": False,
        **{f"{name}_token": tokens[i] for name, i in ids.items() if i is not None},
    }
    template = get("tokenizer.chat_template")
    return config if template is None else config | {"chat_template": template}


def _begin_with(tokenizer: Tokenizer, begin: str) -> None:
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[begin, "$A"],
        pair=[begin, "$A", begin, "$B:1"],
        special_tokens=[(begin, tokenizer.token_to_id(begin))],
    )


def _added(file: GGUFFile, special: bool) -> list[AddedToken]:
    """Tokens that are found in the text as a whole, before it is split."""
    wanted = (_UNKNOWN, _CONTROL) if special else (_USER_DEFINED,)
    types: list[int] = file.metadata.get("tokenizer.ggml.token_type") or []
    found = zip(_list(file, "tokens"), types, strict=False)
    return [AddedToken(text, normalized=False, special=special) for text, t in found if t in wanted]


def _vocabulary(file: GGUFFile) -> dict[str, int]:
    return {token: index for index, token in enumerate(_list(file, "tokens"))}


def _pair(file: GGUFFile, merge: str, vocabulary: Mapping[str, int]) -> tuple[str, str]:
    left, separator, right = merge.partition(" ")
    if not separator:
        raise CheckpointError(file.path, f"tokenizer merge {merge!r} is no pair")
    if not (left in vocabulary and right in vocabulary and left + right in vocabulary):
        raise CheckpointError(file.path, f"tokenizer merge {merge!r} is not in the vocabulary")
    return left, right


def _list(file: GGUFFile, name: str) -> list[Any]:
    value = file.metadata.get(f"tokenizer.ggml.{name}")
    if not isinstance(value, list):
        raise CheckpointError(file.path, f"metadata has no tokenizer.ggml.{name}")
    return value
