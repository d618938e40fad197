"""Messages → prompt text, with the template that the model brings along.

A template is code of the checkpoint; a request can never supply one.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from server.errors import InvalidRequestError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_MAX_SHOWN = 200
"""Characters of a template's own message, which may quote a whole conversation."""

Message = dict[str, str]
"""`role`, `content` and, if the client gave one, `name`."""


class ChatTemplate:
    """Renders chats for one model.

    Args:
        hf_tokenizer: Holds the template (sandboxed jinja2) and the special tokens it names.
        model_name: For the message to people whose model has no template.
    """

    def __init__(self, hf_tokenizer: "PreTrainedTokenizerFast", model_name: str) -> None:
        self._hf_tokenizer = hf_tokenizer
        self._model_name = model_name

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """Text of the chat, up to where the assistant's next turn begins.

        The template writes every special token itself: encode the result with
        `add_special_tokens=False`, or the prompt starts with two BOS.

        Args:
            add_generation_prompt: Also the header of that turn.

        Raises:
            InvalidRequestError: the model has no template, or its template refuses the messages
                (roles that must alternate, no system turn …).
        """
        from jinja2.exceptions import TemplateError

        if self._hf_tokenizer.chat_template is None:
            raise InvalidRequestError(
                f"model {self._model_name!r} has no chat template; use /v1/completions", "messages"
            )
        try:
            text = self._hf_tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as error:
            # Not only what it raises: a template that adds a name to a number fails likewise.
            why = str(error)[:_MAX_SHOWN]
            reason = f"the chat template of {self._model_name!r} refuses them: {why}"
            raise InvalidRequestError(f"messages: {reason}", "messages") from error
        return str(text)
