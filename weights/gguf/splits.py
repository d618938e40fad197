"""How text is split into words before byte-pair encoding, by GGUF's `tokenizer.ggml.pre`.

A GGUF file only has the rule's name. The expressions are those of the models' own tokenizer.json; a
rule whose expressions are not known here is refused by name, for with another one a model answers a
little worse without a word.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from tokenizers import Regex, pre_tokenizers
from tokenizers.pre_tokenizers import PreTokenizer


def _codes(ranges: str) -> str:
    """Hexadecimal code points and ranges, as the inside of a character class. Written so, because
    many look like others and some change under Unicode's normal forms."""
    return "".join(
        "-".join(rf"\x{{{code}}}" for code in part.split("-")) for part in ranges.split()
    )


_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_REST_WITH_SLASH = _REST.replace(r"[\r\n]*", r"[\r\n/]*", 1)
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CAPITALISED = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+"
_CAPITALS = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1,3}}|{_REST}"
_QWEN2 = rf"{_CONTRACTION}|{_WORD}|\p{{N}}|{_REST}"
_QWEN35 = (
    rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEKKEN = rf"{_CAPITALISED}|{_CAPITALS}|\p{{N}}|{_REST_WITH_SLASH}"
_GPT4O = (
    rf"{_CAPITALISED}{_CONTRACTION}?|{_CAPITALS}{_CONTRACTION}?|\p{{N}}{{1,3}}|{_REST_WITH_SLASH}"
)
_YOUTU = rf"{_CAPITALISED}{_CONTRACTION}?|{_CAPITALS}{_CONTRACTION}?|\p{{N}}|{_REST_WITH_SLASH}"
_SEED = (
    rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1}}"
    r"| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BAILING = (
    rf"'(?i:[sdmt]|ll|ve|re)|{_WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
_EXAONE_MOE = (
    rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
)
_JAIS2 = _LLAMA3.replace(
    r"\s+(?!\S)|\s+",
    "|".join(rf"\s{{{n}}}(?!\S)" for n in (512, 256, 128, 64, 32, 16, 8, 4))
    + r"|\s{1,2}(?!\S)|\s{1}",
)
_SENTENCE = rf" ?[^(\s|.,!?){_codes('2026 3002 FF0C 3001 964 6D4 60C')}]+"
_CJK = rf"[{_codes('4E00-9FA5 3040-30FF')}]+"
_FROM_SAMARITAN_TO_HANGUL = rf"[{_codes('800-9FA5 AC00-D7FF')}]+"
_WIDE_MARKS = "FF01-FF0F FF1A-FF5E 2018-201F 3000-3002"
_YOUTU_SCRIPTS = "|".join(
    rf"[{_codes(script)}]+"
    for script in (
        "AC00-D7A3 3131-318E",
        "FF01 2026 201C 201D 2018 2019 2014 FF1A FF1B FF0C 3001-303F FE30-FE4F",
        "3105-312F",
        "4E00-9FA5 3040-30FF",
    )
)
_DEEPSEEK3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CASED_LETTERS = (
    "41-5A 61-7A B5 C0-D6 D8-F6 F8-1BA 1BC-1BF 1C4-293 295-2AF 370-373 376 377 37B-37D 37F "
    "386 388-38A 38C 38E-3A1 3A3-3F5 3F7-481 48A-52F 531-556 10A0-10C5 13A0-13F5 13F8-13FD "
    "1C90-1CBA 1CBD-1CBF 1D00-1D2B 1D6B-1D77 1D79-1D9A 1E00-1F15 1F18-1F1D 1F20-1F45 "
    "1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D 1F5F-1F7D 1F80-1FB4 1FB6-1FBC 1FBE 1FC2-1FC4 "
    "1FC6-1FCC 1FD0-1FD3 1FD6-1FDB 1FE0-1FEC 1FF2-1FF4 1FF6-1FFC 2102 2107 210A-2113 2115 "
    "2119-211D 2124 2126 2128 212A-212D 212F-2134 2139 213C-213F 2145-2149 214E 2183 2184 "
    "2C00-2C7B 2C7E-2CE4 2CEB-2CEE 2CF2 2CF3 A640-A66D A680-A69B A722-A76F A771-A787 "
    "A78B-A78E AB70-ABBF FB00-FB06 FB13-FB17 FF21-FF3A FF41-FF5A 10400-1044F 104B0-104D3 "
    "104D8-104FB 10C80-10CB2 10CC0-10CF2 118A0-118DF 1E900-1E943"
)
"""Letters with a case: what DeepSeek's first tokenizer makes words of."""


@dataclass(frozen=True, slots=True)
class Split:
    """A rule for splitting text into words.

    Args:
        patterns: Expressions, applied one after the other. Each splits what the ones before left:
            its matches are pieces, and so is what lies between them.
    """

    patterns: tuple[str, ...]
    whole_words: bool = False
    """A word that is in the vocabulary is taken as it is, whatever the merges say."""
    compose: bool = False
    """Text is brought to Unicode NFC first."""
    begins: bool = False
    """Text begins with the begin token, where the file does not say."""

    def build(self) -> PreTokenizer:
        """The rule, followed by the translation into GPT-2's byte alphabet."""
        words = [pre_tokenizers.Split(Regex(p), behavior="isolated") for p in self.patterns]
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return pre_tokenizers.Sequence([*words, to_bytes])


def _named() -> Iterator[tuple[str, Split]]:
    """Every rule under all its names."""
    gpt2, qwen2 = Split((_GPT2,)), Split((_QWEN2,))
    digits_apart = Split((r"\p{N}", _GPT2))
    llama3 = Split((_LLAMA3,), whole_words=True, begins=True)
    rules: dict[str, Split] = {
        "gpt-2 phi-2 gigachat a.x-4.0 mellum exaone4 jais trillion granite-docling": gpt2,
        "mpt olmo": replace(gpt2, compose=True),
        "smollm starcoder refact codeshell exaone minerva-7b mellum2": digits_apart,
        "command-r": replace(digits_apart, compose=True),
        "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2": llama3,
        "dbrx smaug-bpe chatglm-bpe glm4": Split((_LLAMA3,)),
        "deepseek-r1-qwen megrez hunyuan solar-open grok-2 kormo": qwen2,
        "qwen2 stablelm2": replace(qwen2, compose=True),
        "qwen35": Split((_QWEN35,), compose=True),
        "tekken": Split((_TEKKEN,), whole_words=True, begins=True),
        "gpt-4o llama4 kanana2 talkie minimax-m2": Split((_GPT4O,)),
        "tiny_aya": Split((r"\d{1,3}(?=(?:\d{3})*\b)", _GPT4O)),
        "deepseek-llm": Split(
            (
                *(
                    r"[\r\n]",
                    rf"\s?[{_codes(_CASED_LETTERS)}]+",
                    rf"\s?[!-/:-~{_codes(_WIDE_MARKS)}]+",
                ),
                *(r"\s+$", _FROM_SAMARITAN_TO_HANGUL, r"\p{N}+"),
            )
        ),
        "deepseek-coder": Split(
            (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _FROM_SAMARITAN_TO_HANGUL, r"\p{N}")
        ),
        "deepseek-v3 hunyuan-dense joyai-llm": Split((r"\p{N}{1,3}", _CJK, _DEEPSEEK3)),
        "youtu": Split((_YOUTU_SCRIPTS, _YOUTU), whole_words=True),
        "falcon": Split((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, r"[0-9][0-9][0-9]")),
        "bailingmoe bailingmoe2 llada-moe": Split((_BAILING,)),
        "seed-coder": Split((_SEED,)),
        "exaone-moe": Split((_EXAONE_MOE,)),
        "jais-2": Split((_JAIS2,)),
        "bloom poro-chat gpt3-finnish": Split((_SENTENCE,)),
        "viking": Split((_SENTENCE, r"\p{N}")),
    }
    for names, rule in rules.items():
        yield from ((name, rule) for name in names.split())


SPLITS = dict(_named())
