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
from weights.gguf.splits import SPLITS, Split

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
    begin = config["bos_token"] if config["add_bos_token"] else None
    _enclose(tokenizer, begin, config["eos_token"] if config["add_eos_token"] else None)
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
    split = _split(file)
    vocabulary = _vocabulary(file)
    merges = [_pair(file, merge, vocabulary) for merge in _list(file, "merges")]
    model = models.BPE(vocabulary, merges, ignore_merges=split.whole_words)
    tokenizer = Tokenizer(model)
    if split.compose:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = split.build()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _split(file: GGUFFile) -> Split:
    name = file.metadata.get("tokenizer.ggml.pre")
    if name in SPLITS:
        return SPLITS[name]
    # Without one, llama.cpp splits by a rule that is no model's, and says that answers suffer.
    hint = "" if name else " (an old file: newer converters write it)"
    raise UnsupportedModelError(
        f"{file.path}: tokenizer.ggml.pre={name!r} is not supported{hint}; supported: "
        + ", ".join(SPLITS)
    )


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
    by_default = get("tokenizer.ggml.model") == "llama" or _split(file).begins
    begin = bool(get("tokenizer.ggml.add_bos_token", by_default)) and ids["bos"] is not None
    end = bool(get("tokenizer.ggml.add_eos_token", False)) and ids["eos"] is not None
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": begin,
        "add_eos_token": end,
        "clean_up_tokenization_spaces": False,
        **{f"{name}_token": tokens[i] for name, i in ids.items() if i is not None},
    }
    templates = _chat_templates(file)
    return config | {"chat_template": templates} if templates else config


def _chat_templates(file: GGUFFile) -> str | list[dict[str, str]] | None:
    """The one template, or several by name as transformers takes them: `default`, `tool_use` …"""
    get = file.metadata.get
    default, names = get("tokenizer.chat_template"), get("tokenizer.chat_templates") or []
    named = {name: get(f"tokenizer.chat_template.{name}") for name in names}
    found = {name: text for name, text in ({"default": default} | named).items() if text}
    if len(found) == 1:
        return next(iter(found.values()))
    return [{"name": name, "template": text} for name, text in found.items()] or None


def _enclose(tokenizer: Tokenizer, begin: str | None, end: str | None) -> None:
    """Makes every text begin and end with a token."""
    specials = [token for token in (begin, end) if token is not None]
    if not specials:
        return
    before, after = [begin] if begin else [], [end] if end else []
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*before, "$A", *after],
        pair=[*before, "$A", *after, *before, "$B:1", *after],
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in dict.fromkeys(specials)],
    )


def _added(file: GGUFFile, special: bool) -> list[AddedToken]:
    """Tokens that are found in the text as a whole, before it is split."""
    wanted = (_UNKNOWN, _CONTROL) if special else (_USER_DEFINED,)
    types: list[int] = file.metadata.get("tokenizer.ggml.token_type") or []
    found = zip(_list(file, "tokens"), types, strict=False)
    return [AddedToken(text, normalized=False, special=special) for text, t in found if t in wanted]


def _vocabulary(file: GGUFFile) -> dict[str, int]:
    """Raises CheckpointError for one text that is two tokens."""
    ids: dict[str, int] = {}
    for index, token in enumerate(_list(file, "tokens")):
        name = token or f"[EMPTY_{index}]"  # as llama.cpp calls it: no text makes this token
        if name in ids:
            raise CheckpointError(file.path, f"tokens {ids[name]} and {index} are both {name!r}")
        ids[name] = index
    return ids


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
