"""`truncation: auto`: a conversation that is too long loses its oldest items until it fits."""

from server.api.deps import Parts
from server.api.generation.job_group import JobGroup
from server.api.generation.translate import chat_jobs
from server.api.responses.chat_request import chat_request, renamed_fields
from server.api.responses.conversation import ChatMessages
from server.api.responses.schema.request import ResponseRequest
from server.errors import ContextLengthError


async def response_jobs(body: ResponseRequest, chat: ChatMessages, parts: Parts) -> JobGroup:
    """The jobs of a response; with `truncation: auto` of the longest end of its conversation that
    fits the context, behind its system messages.

    Raises:
        RequestError: the body asks for something that can't be done; errors name its fields.
    """
    try:
        return await _jobs(body, chat, parts)
    except ContextLengthError as error:
        if body.truncation != "auto":
            raise
        return await _jobs_of_an_end(body, chat, parts, error)


async def _jobs_of_an_end(
    body: ResponseRequest, chat: ChatMessages, parts: Parts, error: ContextLengthError
) -> JobGroup:
    for begins in (_user_turns(chat), _turns(chat)):
        found = await _longest_end(body, chat, parts, begins)
        if found is not None:
            return found
    raise error


async def _longest_end(
    body: ResponseRequest, chat: ChatMessages, parts: Parts, begins: list[int]
) -> JobGroup | None:
    """Finds the longest end that fits, by bisection: each try costs a tokenization.

    Args:
        begins: Places where an end may begin, in order.
    """
    found: JobGroup | None = None
    low, high = 0, len(begins)
    while low < high:
        middle = (low + high) // 2
        try:
            found = await _jobs(body, _end(chat, begins[middle]), parts)
            high = middle
        except ContextLengthError:
            low = middle + 1
    return found


async def _jobs(body: ResponseRequest, chat: ChatMessages, parts: Parts) -> JobGroup:
    with renamed_fields(chat):
        return await chat_jobs(chat_request(body, chat), parts)


def _is_system(chat: ChatMessages, index: int) -> bool:
    return chat.messages[index]["role"] in ("system", "developer")


def _user_turns(chat: ChatMessages) -> list[int]:
    """Where a user speaks. Most chat templates want that to come first."""
    return [i for i, message in enumerate(chat.messages) if message["role"] == "user"]


def _turns(chat: ChatMessages) -> list[int]:
    """Where anybody speaks; a tool's result would be nothing without its call."""
    return [
        index
        for index, message in enumerate(chat.messages)
        if message["role"] != "tool" and not _is_system(chat, index)
    ]


def _end(chat: ChatMessages, begin: int) -> ChatMessages:
    """What is left if the conversation begins there, besides what the system said before."""
    kept = [i for i in range(len(chat.messages)) if i >= begin or _is_system(chat, i)]
    return ChatMessages([chat.messages[i] for i in kept], [chat.places[i] for i in kept])
