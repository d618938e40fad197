"""How long an answer may be: what the prompt leaves of the context."""

from typing import NamedTuple

from server.errors import ContextLengthError


class Room(NamedTuple):
    """What a prompt leaves of the context, in tokens."""

    num_prompt_tokens: int
    max_model_len: int

    @property
    def num_free(self) -> int:
        return self.max_model_len - self.num_prompt_tokens


def room_for(
    field: str, num_prompt_tokens: int, max_model_len: int, given: tuple[str, int] | None = None
) -> Room:
    """
    Args:
        field: Of the prompt.
        given: Field and value of the answer's length, if the client gave one.

    Raises:
        ContextLengthError: there is no room for an answer, where there is to be one.
    """
    room = Room(num_prompt_tokens, max_model_len)
    asks_for_none = given is not None and given[1] == 0
    if room.num_free < (0 if asks_for_none else 1):
        raise ContextLengthError(
            f"{field}: this model's maximum context length is {max_model_len} tokens, but the"
            f" prompt has {num_prompt_tokens} and leaves no room for an answer",
            field,
        )
    return room


def max_tokens(room: Room, given: tuple[str, int] | None, *, default: int | None) -> int:
    """How long the answer may be: a default gives way to the context, a wish doesn't.

    Args:
        given: Field and value, if the client gave one.
        default: None for all that the context has left.

    Raises:
        ContextLengthError: the wish doesn't fit.
    """
    if given is None:
        return room.num_free if default is None else min(default, room.num_free)
    field, value = given
    if value > room.num_free:
        raise ContextLengthError(
            f"{field}: this model's maximum context length is {room.max_model_len} tokens, but"
            f" {room.num_prompt_tokens + value} were requested ({room.num_prompt_tokens} in the"
            f" prompt, {value} in the answer)",
            field,
        )
    return value
