"""How text is split into words before byte-pair encoding, by GGUF's `tokenizer.ggml.pre`.

A GGUF file only has the rule's name. The expressions are those of the models' own tokenizer.json.
"""

from dataclasses import dataclass

from tokenizers import Regex, pre_tokenizers
from tokenizers.pre_tokenizers import PreTokenizer

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_REST}"
_QWEN2 = rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}|{_REST}"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, slots=True)
class Split:
    """A rule for splitting text into words."""

    pattern: str | None = None
    """Expression whose matches are the words; None is GPT-2's."""
    digits_apart: bool = False
    """Every digit is a word of its own, before anything else."""
    whole_words: bool = False
    """A word that is in the vocabulary is taken as it is, whatever the merges say."""
    compose: bool = False
    """Text is brought to Unicode NFC first."""

    def build(self) -> PreTokenizer:
        """The rule, followed by the translation into GPT-2's byte alphabet."""
        digits = [pre_tokenizers.Digits(individual_digits=True)] if self.digits_apart else []
        if self.pattern is None:
            words = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
        else:
            words = [
                pre_tokenizers.Split(Regex(self.pattern), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        return pre_tokenizers.Sequence([*digits, *words])


SPLITS = {
    "smollm": Split(digits_apart=True),
    "gpt-2": Split(),
    "llama-bpe": Split(_LLAMA3, whole_words=True),
    "llama3": Split(_LLAMA3, whole_words=True),
    "llama-v3": Split(_LLAMA3, whole_words=True),
    "qwen2": Split(_QWEN2, compose=True),
    "deepseek-r1-qwen": Split(_QWEN2),
    "tekken": Split(_TEKKEN, whole_words=True),
}

BEGIN_BY_DEFAULT = ("llama-bpe", "llama3", "llama-v3", "tekken")
"""Rules whose models want a begin token where the file does not say."""
