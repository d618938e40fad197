"""Which regular expressions are enforced as they are meant. Pure.

xgrammar matches whole texts and leaves out, with no more than a warning, what it doesn't know. What
it refuses itself (back references, `\\b`, `\\p`) is left to it.
"""

import re

from server.errors import GrammarError

_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?.?|[\s\S]")
"""An escape, a class, the start of a special group, or a character."""


def check_pattern(pattern: str, path: tuple[str, ...] = ()) -> None:
    """
    Raises:
        GrammarError: it has a group other than `(…)` and `(?:…)`, or `^` or `$` inside.
    """
    for match in _TOKEN.finditer(pattern):
        token = match[0]
        if token.startswith("(?") and token != "(?:":
            raise GrammarError(f"groups such as {token}…) can't be enforced", path)
        inside = (token == "^" and match.start() > 0) or (
            token == "$" and match.end() < len(pattern)
        )
        if inside:
            raise GrammarError(f"{token} can only be enforced at the pattern's ends", path)
