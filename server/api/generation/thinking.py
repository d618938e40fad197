"""What a request says of thinking → what its prompt says of it, and how its answer is read.

For another endpoint over chats: say in the `ChatRequest` what the client wants, by
`reasoning_effort` (`none` turns thinking off), `thinking_token_budget` and
`chat_template_kwargs`; send earlier thoughts back as a message's `reasoning_content`; and take
thinking from the answer's pieces, where it comes as `ThinkingDelta` among `Piece.events`, in
front of content and calls. `Piece.num_thinking_tokens` counts its tokens. Where
`Piece.events` is None there is neither thinking nor a call, and all of `Piece.text` is
content.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from server.api.generation.json_schema import check_values
from server.api.generation.tools import ToolUse, allows_content
from server.api.http.errors import shown
from server.api.schema.field_path import shown_name
from server.engine.types import Thinking
from server.errors import InvalidRequestError, UnsupportedFieldError
from server.text.chat_template import ChatTemplate, Message
from server.text.content_tokens import AnswerParser
from server.text.thinking.formats import ThinkingFormat
from server.text.thinking.parser import ThinkingParser
from server.text.thinking.segments import Splitter
from server.text.thinking.splitter import ThinkingStart
from server.text.thinking.switch import Effort
from server.text.tokenizer import Tokenizer
from server.text.tools.formats import ToolFormat
from server.text.tools.functions import FunctionTool


@dataclass(frozen=True, slots=True)
class ThinkingUse:
    """How the answers of one request think."""

    form: ThinkingFormat | None = None
    """None where they don't."""
    start: ThinkingStart | None = None
    """Where the prompt leaves the answer; None behind the thinking."""
    is_told_apart: bool = True
    """False where thoughts stay in the answer: there they can be ended, and that is all."""

    def splitter(self, tools: ToolUse) -> Splitter | None:
        """A splitter of one answer; None if all of it is answer."""
        if self.form is None or self.start is None or not self.is_told_apart:
            return None
        return self.form.splitter(self.start, {tool.name for tool in tools.callable})

    def for_engine(
        self, tokenizer: Tokenizer, budget: int | None, tools: ToolUse, *, has_grammar: bool
    ) -> Thinking | None:
        """What the engine must know to end the thinking, and to begin a grammar behind it; None if
        all is answer.

        Args:
            has_grammar: What is told apart from the thinking must follow one.
        """
        form = self.form
        if form is None or self.start is None:
            return None
        if not self.is_told_apart and (budget is None or has_grammar):
            return None  # a grammar of all that is written leaves no room for thoughts
        demanded = demanded_call(tools, form)
        answer = form.answer if demanded is None else form.call(demanded.name)
        # Where the model may call or answer, the choice is left to it.
        follows = "" if demanded is None and tools.is_active else answer

        def ids(text: str) -> tuple[int, ...]:
            return tuple(tokenizer.encode(text, add_special_tokens=False))

        return Thinking(
            begin=form.begin.encode(),
            end=form.end.encode(),
            answer=answer.encode(),
            begin_ids=ids(form.begin),
            end_ids=ids(form.end + form.between + follows),
            answer_ids=ids(answer),
            next_ids=ids(form.between),
            is_open=self.start == "open",
            budget=budget,
        )

    def parser(self, tools: ToolUse, form: ToolFormat) -> AnswerParser | None:
        """A parser of one answer; None if all of it is content."""
        splitter = self.splitter(tools)
        if splitter is None or self.form is None:
            return tools.parser(form)
        calls = None if self.form.has_calls else tools.parser(form)
        takes_content = allows_content(tools.mode)
        return ThinkingParser(splitter, calls, self.form.marks, takes_content=takes_content)


def demanded_call(tools: ToolUse, form: ThinkingFormat | None) -> FunctionTool | None:
    """The function that must be called, where calls are messages in channels; None where none is,
    or one of several."""
    if form is None or not form.has_calls or tools.mode not in ("required", "named"):
        return None
    return tools.callable[0] if len(tools.callable) == 1 else None


NO_THINKING: Final = ThinkingUse()


def check_calls(tools: ToolUse, template: ChatTemplate) -> None:
    """Refuses what can't be enforced of calls that are messages in channels.

    Raises:
        UnsupportedFieldError: one of several functions is to be called, or what is no call has to
            follow a grammar.
    """
    form = template.thinking_format
    if form is None or not form.has_calls or not tools.is_active:
        return
    if tools.mode != "auto" and demanded_call(tools, form) is None:
        what = (
            "of several functions one can't be demanded where this model writes calls in channels"
        )
        raise UnsupportedFieldError(f"tool_choice: {what}", "tool_choice")
    if tools.content is not None:
        what = "can't be combined with tools where this model writes calls in channels"
        raise UnsupportedFieldError(f"response_format: {what}", "response_format")


def thinking_use(template: ChatTemplate, prompt: str, begun: str | None = None) -> ThinkingUse:
    """How answers to a chat's prompt think.

    Args:
        begun: The answer's beginning, where the prompt has it.
    """
    form = template.thinking_format or template.own_thinking_format
    if form is None:
        return NO_THINKING
    start = form.start_behind(prompt) if begun is None else form.start_within(begun)
    return ThinkingUse(form, start, is_told_apart=template.thinking_format is not None)


@dataclass(frozen=True, slots=True)
class ThinkingPrompt:
    """What a chat's prompt says of thinking."""

    variables: Mapping[str, Any]
    """Of the chat template."""
    word: str | None
    """A word that the system's message has to have."""

    def messages(self, messages: Sequence[Message]) -> list[Message]:
        """The messages with the word, where the template wants one."""
        if self.word is None:
            return list(messages)
        if not messages or messages[0]["role"] != "system":
            return [{"role": "system", "content": self.word}, *messages]
        first, *others = messages
        return [{**first, "content": f"{first['content']}\n{self.word}".lstrip()}, *others]


def thinking_prompt(
    effort: Effort | None, variables: Mapping[str, Any] | None, template: ChatTemplate
) -> ThinkingPrompt:
    """Works out what a request says to the chat template.

    Raises:
        InvalidRequestError: the template reads no such variable; the model can't be told not to
            think; two fields contradict each other.
    """
    given = dict(variables or {})
    _check_variables(given, template)
    if effort is None:
        return ThinkingPrompt(given, None)
    switch = template.thinking_switch
    if effort == "none" and template.own_thinking_format is not None and not switch.can_be_off:
        raise InvalidRequestError(
            "reasoning_effort: is 'none', but this model's chat template has no way to turn"
            " thinking off",
            "reasoning_effort",
        )
    said = switch.variables(effort)
    for name in said.keys() & given.keys():
        if said[name] != given[name]:
            raise InvalidRequestError(
                f"reasoning_effort: is {effort!r}, but chat_template_kwargs.{shown_name(name)} is"
                f" {shown(given[name])}",
                "reasoning_effort",
            )
    return ThinkingPrompt({**said, **given}, switch.word(effort))


def _check_variables(given: Mapping[str, Any], template: ChatTemplate) -> None:
    field = "chat_template_kwargs"
    check_values(dict(given), field)
    for name in given:
        if name not in template.variables:
            known = ", ".join(sorted(template.variables)) or "none"
            place = f"{field}.{shown_name(name)}"
            raise InvalidRequestError(
                f"{place}: this model's chat template doesn't read it; it reads: {known}", place
            )
