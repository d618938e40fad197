"""The forms in which models write function calls: how each is read, written and enforced.

    hermes        <tool_call>\\n{"name": "f", "arguments": {…}}\\n</tool_call>, once for each call
    llama3        {"name": "f", "parameters": {…}}; {…}, in front of it perhaps <|python_tag|>
    mistral       [TOOL_CALLS] [{"name": "f", "arguments": {…}}, {…}]
    mistral_args  [TOOL_CALLS]f[ARGS]{…}, once for each call; tokenizers of 2025 and later
    smollm2       <tool_call>[\\n{"name": "f", "arguments": {…}},\\n{…}\\n]</tool_call>

Reading is more lenient than writing: any parser takes a list for one call and the other way round,
`parameters` for `arguments`, and keys in any order.
"""

import hashlib
import re
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Final, Literal

from server.text.tools.functions import FunctionCall
from server.text.tools.parser import Enforced, ToolParser
from server.text.tools.section import LIST_OPENER, OBJECT_OPENER, Markup

FormatName = Literal["hermes", "llama3", "mistral", "mistral_args", "smollm2"]


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """One form. A whole answer of calls is written

    begin · call_begin[0] name call_begin[1] arguments call_end · separator · … · end
    """

    name: FormatName
    markup: Markup
    trigger: str
    """The text with which every call or list of calls begins."""
    call_begin: tuple[str, str]
    """Before and after the name."""
    call_end: str
    separator: str
    begin: str = ""
    end: str = ""
    no_calls: str | None = None
    """What stands for a list of no calls, where a model may write that instead of a text."""
    call_id_length: int | None = None
    """How long ids in prompts are, in letters and digits; None for any ids."""

    def parser(self, names: Set[str], enforced: Enforced = "nothing") -> ToolParser:
        """A parser of one answer that may call these functions."""
        return ToolParser(self.markup, names, self.trigger, enforced)

    def write(self, calls: Sequence[FunctionCall]) -> str:
        """What the model would have written for these calls, of which there is at least one."""
        before, after = self.call_begin
        texts = [f"{before}{call.name}{after}{call.arguments}{self.call_end}" for call in calls]
        return self.begin + self.separator.join(texts) + self.end

    def prompt_call_id(self, call_id: str) -> str:
        """An id as the chat template takes it: always the same for the same id."""
        length = self.call_id_length
        if length is None or re.fullmatch(rf"[a-zA-Z0-9]{{{length}}}", call_id):
            return call_id
        return hashlib.blake2b(call_id.encode()).hexdigest()[:length]


_TAGS: Final = Markup(openers=("<tool_call>",), closer="</tool_call>")
_TOOL_CALLS: Final = Markup(openers=("[TOOL_CALLS]",), bare_names=True)
_MISTRAL_ID_LENGTH: Final = 9

_ALL: Final = (
    ToolFormat(
        name="hermes",
        markup=_TAGS,
        trigger="<tool_call>",
        call_begin=('<tool_call>\n{"name": "', '", "arguments": '),
        call_end="}\n</tool_call>",
        separator="\n",
    ),
    ToolFormat(
        name="llama3",
        markup=Markup(openers=("<|python_tag|>", OBJECT_OPENER, LIST_OPENER), separators=";,"),
        trigger='{"name": "',
        call_begin=('{"name": "', '", "parameters": '),
        call_end="}",
        separator="; ",
    ),
    ToolFormat(
        name="mistral",
        markup=_TOOL_CALLS,
        trigger="[TOOL_CALLS]",
        call_begin=('{"name": "', '", "arguments": '),
        call_end="}",
        separator=", ",
        begin="[TOOL_CALLS] [",
        end="]",
        call_id_length=_MISTRAL_ID_LENGTH,
    ),
    ToolFormat(
        name="mistral_args",
        markup=_TOOL_CALLS,
        trigger="[TOOL_CALLS]",
        call_begin=("[TOOL_CALLS]", "[ARGS]"),
        call_end="",
        separator="",
        call_id_length=_MISTRAL_ID_LENGTH,
    ),
    ToolFormat(
        name="smollm2",
        markup=_TAGS,
        trigger="<tool_call>",
        call_begin=('{"name": "', '", "arguments": '),
        call_end="}",
        separator=",\n",
        begin="<tool_call>[\n",
        end="\n]</tool_call>",
        no_calls="<tool_call>[]</tool_call>",
    ),
)
FORMATS: Final = {form.name: form for form in _ALL}


def detect_format(chat_template: str | None) -> ToolFormat:
    """The form that a model was most probably trained on, by the text of its chat template; hermes,
    the most common one, where that says nothing."""
    template = chat_template or ""
    if "[TOOL_CALLS]" in template:
        return FORMATS["mistral_args" if "[ARGS]" in template else "mistral"]
    if "<tool_call>" in template:
        return FORMATS["hermes"]
    if "<|python_tag|>" in template or "<|start_header_id|>" in template:
        return FORMATS["llama3"]
    return FORMATS["smollm2" if "SmolLM" in template else "hermes"]
