"""Which answers a request's tools allow → a structural tag of xgrammar, as JSON text.

Arguments follow their function's JSON schema, and white space in them is bounded: a model that is
bad at calls might otherwise write it without end.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from server.text.tools.formats import ToolFormat
from server.text.tools.functions import FunctionTool

_Format = dict[str, Any]
"""A format of xgrammar's structural tags."""

_MAX_WHITESPACE: Final = 2
"""Characters in a row, between JSON's tokens."""

ANY_OBJECT: Final = {"type": "object", "additionalProperties": True}
_SAYS_NOTHING: Final = frozenset(
    "type properties required additionalProperties title description $schema $defs".split()
)
"""Keywords that describe no parameter: a schema with no others, and without properties, means that
the function has no parameters."""
_NO_ARGUMENTS: Final = {"type": "object", "properties": {}, "additionalProperties": False}


def only_calls(
    form: ToolFormat, tools: Sequence[FunctionTool], *, parallel: bool
) -> dict[str, Any]:
    """Answers that are calls: one or more, or one exactly. Arguments follow their schemas."""
    tags = [_call(form, tool, arguments_schema(tool)) for tool in tools]
    return _section(form, tags, parallel=parallel)


def text_and_calls(
    form: ToolFormat, tools: Sequence[FunctionTool], *, parallel: bool
) -> dict[str, Any]:
    """Answers of any text, in which every call is a valid one, with arguments that follow their
    schema where the function is strict or has no parameters, and are any object elsewhere. Without
    `parallel` the answer ends with its first call."""
    tags = [
        _call(form, tool, arguments_schema(tool) if tool.strict or _has_none(tool) else ANY_OBJECT)
        for tool in tools
    ]
    if form.begin:
        # All calls are in one section, after which there is nothing.
        tags = [_tag(form.begin, _section_content(form, tags, parallel=parallel), form.end)]
        if form.no_calls is not None:
            tags.append(_tag(form.no_calls, {"type": "const_string", "value": ""}, ""))
    return {
        "type": "triggered_tags",
        "triggers": [form.trigger],
        "tags": tags,
        "stop_after_first": bool(form.begin) or not parallel,
    }


def structural_tag(content: Mapping[str, Any]) -> str:
    """The JSON text that xgrammar takes."""
    return json.dumps({"type": "structural_tag", "format": content}, ensure_ascii=False)


def _section(form: ToolFormat, tags: list[_Format], *, parallel: bool) -> _Format:
    content = _section_content(form, tags, parallel=parallel)
    return _tag(form.begin, content, form.end) if form.begin else content


def _section_content(form: ToolFormat, tags: list[_Format], *, parallel: bool) -> _Format:
    return {
        "type": "tags_with_separator",
        "tags": tags,
        "separator": form.separator,
        "at_least_one": True,
        "stop_after_first": not parallel,
    }


def _call(form: ToolFormat, tool: FunctionTool, schema: Mapping[str, Any]) -> _Format:
    before, after = form.call_begin
    arguments = {
        "type": "json_schema",
        "json_schema": schema,
        "max_whitespace_cnt": _MAX_WHITESPACE,
    }
    return _tag(before + tool.name + after, arguments, form.call_end)


def _tag(begin: str, content: _Format, end: str) -> _Format:
    return {"type": "tag", "begin": begin, "content": content, "end": end}


def arguments_schema(tool: FunctionTool) -> Mapping[str, Any]:
    """What a call's arguments have to be where they are enforced."""
    if _has_none(tool):
        return _NO_ARGUMENTS
    # Arguments are an object, also where the schema doesn't say so.
    return {**tool.parameters, "type": "object"}


def _has_none(tool: FunctionTool) -> bool:
    """Whether it has no parameters. One that takes any object says so by `additionalProperties`."""
    parameters = tool.parameters
    if parameters.get("properties") or parameters.get("required"):
        return False
    is_open = parameters.get("additionalProperties", False) is not False
    return not is_open and _SAYS_NOTHING.issuperset(parameters)
