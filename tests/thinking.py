"""Thinking models in small: chat templates of their families, and a tokenizer with their marks."""

from functools import cache
from typing import TYPE_CHECKING

from tokenizers import AddedToken
from tokenizers import Tokenizer as BackendTokenizer

from server.text.chat_template import ChatTemplate
from server.text.thinking.harmony import MARKS
from server.text.tokenizer import Tokenizer, from_hf
from tests.doubles import BOS, EOS, EOS_ID, byte_backend

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

QWEN3 = """{% if tools %}<|system|>{{ tools | tojson }} <tool_call>{% endif %}\
{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' and m.reasoning_content %}\
<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}\
{% for call in m.tool_calls %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}\
{% endfor %}{% if add_generation_prompt %}<|assistant|>\
{% if enable_thinking is defined and enable_thinking is false %}<think>

</think>

{% endif %}{% endif %}"""
"""Thinks unless it is told not to; the model writes both marks."""

DEEPSEEK_R1 = """{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\
{% if m.role == 'assistant' and '</think>' in m.content %}\
{{ m.content.split('</think>')[-1] }}{% else %}{{ m.content }}{% endif %}{% endfor %}\
{% if add_generation_prompt %}<|assistant|><think>
{% endif %}"""
"""Always thinks; the prompt has the first mark."""

SMOLLM3 = """{% if enable_thinking is not defined %}{% set enable_thinking = true %}{% endif %}\
{% if messages[0].role == 'system' and '/no_think' in messages[0].content %}\
{% set enable_thinking = false %}{% endif %}\
{% generation %}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}\
{% endgeneration %}\
{% if add_generation_prompt %}<|assistant|>{% if not enable_thinking %}<think>

</think>
{% endif %}{% endif %}"""

WORDS = """{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}\
{% if add_generation_prompt %}<|assistant|>{% if '/no_think' in messages[0].content %}\
<think></think>{% endif %}{% endif %}"""
"""Told by a word in the system's message, and by nothing else."""

GPT_OSS = """{% if reasoning_effort is not defined %}{% set reasoning_effort = 'medium' %}\
{% endif %}\
<|start|>system<|message|>Reasoning: {{ reasoning_effort }}{{ tools | tojson if tools }}<|end|>\
{% for m in messages %}<|start|>{{ m.role }}\
{% if m.thinking and m.content and m.tool_calls %}{{ raise_exception('both') }}{% endif %}\
{% if m.thinking %}<|channel|>analysis<|message|>{{ m.thinking }}<|end|>{% endif %}\
{% if m.role == 'assistant' %}<|channel|>final{% endif %}<|message|>{{ m.content }}<|end|>\
{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"""

THINK_ID, END_THINK_ID = EOS_ID + 1, EOS_ID + 2
VOCAB_SIZE = END_THINK_ID + 1 + len(MARKS)


def thinking_backend() -> BackendTokenizer:
    """The byte tokenizer, then the marks: ordinary added tokens for `<think>`, as Qwen's, and
    special ones for the channels."""
    backend = byte_backend()
    backend.add_tokens(
        [AddedToken("<think>", special=False), AddedToken("</think>", special=False)]
    )
    backend.add_special_tokens([AddedToken(mark, special=True) for mark in MARKS])
    return backend


def thinking_ids(text: str) -> list[int]:
    """Token ids of a text: a mark is one token."""
    return thinking_tokenizer().encode(text, add_special_tokens=False)


def steps_of(text: str, size: int = 1) -> list[list[int]]:
    """Steps of so many tokens each that say a text and end with EOS."""
    token_ids = [*thinking_ids(text), EOS_ID]
    return [token_ids[begin : begin + size] for begin in range(0, len(token_ids), size)]


@cache
def thinking_tokenizer() -> Tokenizer:
    return from_hf(_fast(None))


def thinking_template(template: str) -> ChatTemplate:
    return ChatTemplate(_fast(template), "tiny")


def _fast(template: str | None) -> "PreTrainedTokenizerFast":
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=thinking_backend(), bos_token=BOS, eos_token=EOS, chat_template=template
    )
