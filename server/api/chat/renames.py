"""Names of a chat's fields → those of an endpoint whose requests become chats."""

import re
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

from server.errors import RequestError


@contextmanager
def renamed_fields(rename: Callable[[str], str]) -> Generator[None]:
    """Errors that name a field of the chat's name the endpoint's own instead.

    Args:
        rename: Path in the chat's body → path in the endpoint's.
    """
    try:
        yield
    except RequestError as error:
        if error.param is not None:
            param = rename(error.param)
            if error.message.startswith(f"{error.param}: "):
                error.message = param + error.message[len(error.param) :]
            error.param = param
        raise


def rename_beginning(param: str, names: Sequence[tuple[str, str]]) -> str:
    """A path with its beginning replaced.

    Args:
        names: Beginnings as patterns, and what they are replaced by; the first that fits counts.
    """
    for pattern, name in names:
        renamed, count = re.subn(rf"^{pattern}(?=\.|$)", name, param)
        if count:
            return renamed
    return param
