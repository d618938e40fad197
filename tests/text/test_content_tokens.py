"""Tokens beside the content that they are."""

import pytest

from server.text import content_tokens
from server.text.content_tokens import ContentTokens
from server.text.tools.formats import FORMATS


def test_tokens_that_are_undecided_are_not_looked_at_with_each_new_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A long text that may become a call would take the square of its length."""
    num_looks = 0

    def count(*values: int) -> int:
        nonlocal num_looks
        num_looks += 1
        return max(*values)

    monkeypatch.setattr(content_tokens, "max", count, raising=False)
    parser = FORMATS["hermes"].parser({"f"})
    tokens = ContentTokens[int](parser)
    pieces = ["Hm", ' <tool_call>{"junk": "', *["x"] * 1000]
    for index, piece in enumerate(pieces):
        tokens.read(index, piece)
    assert num_looks < 2 * len(pieces)
    events = parser.finish()
    assert tokens.take(events, ended=True) == (tuple(range(len(pieces))),)
