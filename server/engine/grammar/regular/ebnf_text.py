"""Texts and characters inside a grammar in EBNF. Pure.

xgrammar's reader takes all hexadecimal digits that follow `\\x`, and its printer writes two:
printed `°C` is `\\xb0C`, which is read as the one character U+0B0C. Only the escapes `\\uXXXX` and
`\\UXXXXXXXX` always end where they should.
"""

import re

_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|[\s\S])")


def with_whole_escapes(ebnf: str) -> str:
    """The same grammar, in which no escape swallows what follows it. `\\x` has two digits, as in
    GBNF and in what xgrammar prints."""
    return _ESCAPE.sub(_whole, ebnf)


def _whole(escape: re.Match[str]) -> str:
    digits = next((group for group in escape.groups() if group), None)
    return escape[0] if digits is None else f"\\U{int(digits, 16):08x}"


def character(char: str) -> str:
    """One character of a literal or of a class; escaped wherever it could mean something else."""
    is_plain = char.isascii() and char.isalnum()
    return char if is_plain else f"\\U{ord(char):08x}"


def literal(text: str) -> str:
    """A literal that stands for exactly this text."""
    return '"' + "".join(map(character, text)) + '"'
