"""Messages → prompt text, with the template that the model brings along.

A template is code of the checkpoint; a request can never supply one.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from server.errors import InvalidRequestError
from server.text.template_variables import template_variables
from server.text.thinking import formats as thinking_formats
from server.text.thinking.formats import ThinkingFormat
from server.text.thinking.switch import ThinkingSwitch
from server.text.tools.formats import ToolFormat, detect_format
from server.text.tools.prompt import has_calls, without_tools

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_MAX_SHOWN = 200
"""Characters of a template's own message, which may quote a whole conversation."""

_TEMPLATE_ERRORS = (TypeError, ValueError, LookupError, ArithmeticError, RecursionError)

_NAMES_TOOLS = re.compile(r"\{[%{](?:(?![%}]\}).)*\btools\b", re.DOTALL)
"""A statement or expression of a template, and not its text, that has a variable `tools`."""

_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""What templates call the thoughts of a message."""

Message = dict[str, Any]
"""`role`, `content` and, if the client gave one, `name`: strings. With tools also `tool_calls` of
an assistant (entries as OpenAI's, but arguments as an object), and `tool_call_id` beside `name` in
role `tool`: transformers' conventions. `reasoning_content` is what an assistant thought, and stands
under whatever name the template reads."""

ToolSchema = dict[str, Any]
"""`{"type": "function", "function": {"name", "description", "parameters"}}`."""


class ChatTemplate:
    """Renders chats for one model.

    Args:
        hf_tokenizer: Holds the template (sandboxed jinja2) and the special tokens it names.
        model_name: For the error where the model has no template.
    """

    def __init__(self, hf_tokenizer: "PreTrainedTokenizerFast", model_name: str) -> None:
        self._hf_tokenizer = hf_tokenizer
        self._model_name = model_name

    @cached_property
    def tool_format(self) -> ToolFormat:
        """The form in which the model writes calls, by the template's text; can be set to
        another."""
        return detect_format(self._text_for_tools)

    @cached_property
    def knows_tools(self) -> bool:
        """Whether the template shows tools and calls itself."""
        return _NAMES_TOOLS.search(self._text_for_tools) is not None

    @cached_property
    def own_thinking_format(self) -> ThinkingFormat | None:
        """The form in which the model thinks before it answers, by the template's text; None if it
        doesn't think."""
        return thinking_formats.detect_format(self._text_for_tools)

    @cached_property
    def thinking_format(self) -> ThinkingFormat | None:
        """The form in which thinking is told from the answer: the model's own; can be set to
        another, or to None."""
        return self.own_thinking_format

    @cached_property
    def thinking_switch(self) -> ThinkingSwitch:
        """What the template offers to say how much the model thinks."""
        return ThinkingSwitch(self.variables, self._text_for_tools)

    @cached_property
    def variables(self) -> frozenset[str]:
        """The variables that the template reads, and that a request may set."""
        return template_variables(self._text_for_tools)

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSchema] = (),
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Text of the chat, up to where the assistant's next turn begins.

        Where the template knows no tools, `tools/prompt.py` says it in plain messages.

        The template writes every special token itself: encode the result with
        `add_special_tokens=False`, or the prompt starts with two BOS.

        Args:
            add_generation_prompt: Also the header of that turn.
            continue_final_message: Up to where the last message ends, without the end of its turn.
            variables: Of the template's, by name.

        Raises:
            InvalidRequestError: the model has no template, or its template refuses the messages
                (roles that must alternate, no system turn …).
        """
        if (tools or has_calls(messages)) and not self.knows_tools:
            messages, tools = without_tools(messages, tools, self.tool_format), ()
        ends = {
            "add_generation_prompt": add_generation_prompt and not continue_final_message,
            "continue_final_message": continue_final_message,
        }
        return self._apply(messages, tools, ends, variables or {})

    def _apply(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSchema],
        ends: Mapping[str, bool],
        variables: Mapping[str, Any],
    ) -> str:
        from jinja2.exceptions import TemplateError

        if self._hf_tokenizer.chat_template is None:
            raise InvalidRequestError(
                f"model {self._model_name!r} has no chat template; use /v1/completions", "messages"
            )
        try:
            text = self._hf_tokenizer.apply_chat_template(
                [self._with_thoughts(message) for message in messages],
                tools=list(tools) or None,  # pyright: ignore[reportArgumentType]  # invariant list
                tokenize=False,
                **ends,
                **variables,
            )
        except (*_TEMPLATE_ERRORS, TemplateError) as error:
            # Not only what it raises: a template that adds a name to a number fails likewise.
            why = str(error)[:_MAX_SHOWN]
            reason = f"the chat template of {self._model_name!r} refuses them: {why}"
            raise InvalidRequestError(f"messages: {reason}", "messages") from error
        return str(text)

    def _with_thoughts(self, message: Message) -> Message:
        """The message with what was thought before it under the names that the template reads."""
        if "reasoning_content" not in message:
            return dict(message)  # transformers writes into the one that it goes on from
        others = {key: value for key, value in message.items() if key != "reasoning_content"}
        form = self.own_thinking_format or self.thinking_format
        if form is None:
            return others
        thoughts, others = form.history(message["reasoning_content"], others)
        return {**others, **dict.fromkeys(self._names_of_thoughts, thoughts)}

    @cached_property
    def _names_of_thoughts(self) -> tuple[str, ...]:
        """The names under which the template reads what an assistant thought."""
        text = self._text_for_tools
        return tuple(
            name for name in _THOUGHTS if re.search(rf"""\.{name}\b|['"]{name}['"]""", text)
        )

    @cached_property
    def text(self) -> str | None:
        """The template itself; of several, the one for ordinary chats."""
        template = self._hf_tokenizer.chat_template
        return template.get("default") if isinstance(template, dict) else template

    @cached_property
    def _text_for_tools(self) -> str:
        """The template's text; of several, that for chats with tools."""
        template = self._hf_tokenizer.chat_template
        if isinstance(template, dict):
            return str(template.get("tool_use", template.get("default", "")))
        return template or ""
