"""What a request says of tools → what the template shows, which calls are read from the answer, and
what a grammar enforces."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from starlette.responses import Response

from server.api.generation.json_schema import check_object_schema
from server.api.generation.schema.tools import (
    AllowedToolChoice,
    FunctionToolField,
    NamedTool,
    OtherTool,
)
from server.api.http.errors import shown
from server.api.middleware.request import DROPPED_TOOLS_HEADER
from server.api.schema.field_path import MAX_NAME
from server.engine.types import Grammar
from server.errors import InvalidRequestError, UnsupportedFieldError
from server.text.chat_template import ToolSchema
from server.text.tools.formats import ToolFormat
from server.text.tools.functions import FunctionTool
from server.text.tools.grammar import only_calls, structural_tag, text_and_calls
from server.text.tools.parser import Enforced, ToolParser
from server.text.tools.section import OBJECT_OPENER

AnyTool = FunctionToolField | OtherTool

CallMode = Literal["none", "auto", "required", "named"]
"""Calls: impossible, as the model likes, at least one, exactly one of a given function."""


def allows_content(mode: CallMode) -> bool:
    """Whether an answer may be anything else than calls."""
    return mode in ("none", "auto")


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The tools of one request."""

    mode: CallMode
    shown: tuple[FunctionTool, ...] = ()
    """The functions that the model is shown."""
    callable: tuple[FunctionTool, ...] = ()
    """The functions that it may call: the one that is named, or all that are shown."""
    parallel: bool = True
    """An answer may have several calls; never of a named function."""
    content: Grammar | None = None
    """What the answer may be where it is no call; None for any text."""

    @property
    def is_active(self) -> bool:
        """Answers may have calls."""
        return self.mode != "none"

    def schemas(self) -> list[ToolSchema]:
        """The shown functions as chat templates take them, with every field that any template
        needs."""
        return [_schema(tool) for tool in self.shown]

    def parser(self, form: ToolFormat) -> ToolParser | None:
        """A parser of one answer; None if there can be no calls in it."""
        if not self.is_active:
            return None
        return form.parser({tool.name for tool in self.callable}, self._enforced_calls(form))

    def _enforced_calls(self, form: ToolFormat) -> Enforced:
        """What the grammar ensures about calls."""
        if self.mode != "auto":
            return "only_calls"
        if self.content is None:
            return "calls" if self._restricts_calls else "nothing"
        # Other contents might begin like a call.
        is_json = self.content.kind in ("json_object", "json_schema")
        return "calls" if is_json and OBJECT_OPENER not in form.markup.openers else "nothing"

    @property
    def _restricts_calls(self) -> bool:
        """Whether calls are not to be just any, where the answer may be any text."""
        return not self.parallel or any(tool.strict for tool in self.callable)

    def enforced(self) -> tuple[FunctionTool, ...]:
        """The functions whose arguments the grammar holds to their schema, where there is a
        grammar."""
        if self.mode == "auto" and self.content is None:
            return tuple(tool for tool in self.callable if tool.strict)
        return self.callable

    def grammar(self, form: ToolFormat) -> Grammar | None:
        """What the answer may be; None for any text."""
        if not self.is_active:
            return self.content
        if self.mode != "auto":
            return _grammar(only_calls(form, self.callable, parallel=self.parallel))
        if self.content is not None:
            calls = only_calls(form, self.callable, parallel=self.parallel)
            return _grammar({"type": "or", "elements": [_format(self.content), calls]})
        # Where nothing is asked for, nothing is enforced: no mask is cheaper than any.
        if not self._restricts_calls:
            return None
        return _grammar(text_and_calls(form, self.callable, parallel=self.parallel))


NO_TOOLS: Final = ToolUse("none")


def tool_use(
    given: Sequence[AnyTool],
    choice: NamedTool | AllowedToolChoice | Literal["none", "auto", "required"] | None,
    *,
    parallel: bool,
    drops_others: bool,
) -> ToolUse:
    """Works out what a request's tools and its choice among them mean.

    Args:
        parallel: An answer may have several calls.
        drops_others: Tools that are no functions are left out; else refused.

    Raises:
        InvalidRequestError: the tools or the choice make no sense.
    """
    tools = _function_tools(given, drops_others=drops_others)
    if not tools:
        if choice in (None, "none", "auto"):
            return NO_TOOLS
        raise InvalidRequestError("tool_choice: needs tools", "tool_choice")
    if isinstance(choice, NamedTool):
        named = _find(choice, tools, "tool_choice.function.name")
        return ToolUse("named", tuple(tools.values()), (named,), parallel=False)
    if isinstance(choice, AllowedToolChoice):
        allowed = _allowed(choice.allowed_tools.tools, tools)
        return ToolUse(choice.allowed_tools.mode, allowed, allowed, parallel)
    if choice == "none":
        return NO_TOOLS
    every = tuple(tools.values())
    return ToolUse(choice or "auto", every, every, parallel)


def say_dropped(response: Response, given: Sequence[object] | None) -> None:
    """Adds the header if a request that was answered had other tools than functions."""
    types = [tool.type for tool in given or () if isinstance(tool, OtherTool)]
    if types:
        shown_types = (re.sub(r"[^!-+\--~]", "?", kind)[:MAX_NAME] for kind in types)
        response.headers[DROPPED_TOOLS_HEADER] = ", ".join(shown_types)


def tool_schemas(given: Sequence[AnyTool], *, drops_others: bool) -> list[ToolSchema]:
    """The tools as a chat shows them to the model, unless its `tool_choice` leaves some out.

    Raises:
        InvalidRequestError: the tools make no sense.
    """
    tools = _function_tools(given, drops_others=drops_others)
    return ToolUse("auto", tuple(tools.values())).schemas()


def _function_tools(given: Sequence[AnyTool], *, drops_others: bool) -> dict[str, FunctionTool]:
    tools: dict[str, FunctionTool] = {}
    for index, entry in enumerate(given):
        if isinstance(entry, OtherTool):
            if not drops_others:
                raise _other_tool(entry, f"tools.{index}.type")
            continue
        function, path = entry.function, f"tools.{index}.function"
        if function.name in tools:
            raise InvalidRequestError(
                f"{path}.name: {shown(function.name)} is the name of two functions", f"{path}.name"
            )
        parameters = function.parameters or {}
        check_object_schema(parameters, f"{path}.parameters")
        tools[function.name] = FunctionTool(
            function.name, function.description or "", parameters, bool(function.strict)
        )
    return tools


def tool_places(given: Sequence[AnyTool]) -> dict[str, str]:
    """The path of each function in the body, by the function's name."""
    return {
        entry.function.name: f"tools.{index}"
        for index, entry in enumerate(given)
        if isinstance(entry, FunctionToolField)
    }


def _other_tool(tool: OtherTool, path: str) -> UnsupportedFieldError:
    reason = "Only tools of type 'function' are supported; --other-tools drop leaves others out"
    return UnsupportedFieldError(f"{path}: {reason}, got {shown(tool.type)}", path)


def _allowed(
    given: Sequence[NamedTool], tools: dict[str, FunctionTool]
) -> tuple[FunctionTool, ...]:
    found = [
        _find(entry, tools, f"tool_choice.allowed_tools.tools.{index}.function.name")
        for index, entry in enumerate(given)
    ]
    return tuple({tool.name: tool for tool in found}.values())


def _find(entry: NamedTool, tools: dict[str, FunctionTool], path: str) -> FunctionTool:
    name = entry.function.name
    if name not in tools:
        raise InvalidRequestError(f"{path}: tools has no function {shown(name)}", path)
    return tools[name]


def _schema(tool: FunctionTool) -> ToolSchema:
    parameters = tool.parameters or {"type": "object", "properties": {}}
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}


def _grammar(content: dict[str, Any]) -> Grammar:
    return Grammar("structural_tag", structural_tag(content))


def _format(grammar: Grammar) -> dict[str, Any]:
    """A grammar as a part of a structural tag."""
    match grammar.kind:
        case "json_object":
            return {"type": "json_schema", "json_schema": {"type": "object"}}
        case "json_schema":
            return {"type": "json_schema", "json_schema": json.loads(grammar.text)}
        case "regex":
            return {"type": "regex", "pattern": grammar.text}
        case "ebnf":
            return {"type": "grammar", "grammar": grammar.text}
        case "choice":
            texts: list[str] = json.loads(grammar.text)
            choices = [{"type": "const_string", "value": text} for text in texts]
            return {"type": "or", "elements": choices}
        case "structural_tag":
            return json.loads(grammar.text)["format"]
