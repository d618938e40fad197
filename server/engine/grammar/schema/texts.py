"""Values and keys of a schema for which this package writes the rules. In the schema that xgrammar
gets, markers stand for them; in the grammar that it makes, rules replace the markers. Pure."""

import json
import re
from collections.abc import Sequence
from typing import Any

from server.engine.grammar.regular.automaton import TooManyStatesError
from server.engine.grammar.regular.ebnf import RuleWriter, in_json, plain
from server.engine.grammar.regular.ebnf_text import literal
from server.engine.grammar.regular.expression import Expression
from server.errors import GrammarError


class Texts:
    """The expressions and values of one schema, by marker.

    Args:
        schema: markers are chosen so that none of its texts has one.
    """

    def __init__(self, schema: Any) -> None:
        self._mark = "@"
        written = json.dumps(schema, default=str)
        while self._mark in written:
            self._mark += "@"
        # No rule of xgrammar's own begins with this.
        self._in_strings = RuleWriter("text_", in_json)
        self._bare = RuleWriter("bare_", plain)
        self._markers: dict[tuple[Expression, str], str] = {}
        self._listed: dict[str, str] = {}
        self._rules: dict[str, str] = {}

    def value(self, expression: Expression, path: tuple[str, ...]) -> dict[str, Any]:
        """A schema for the strings that the expression allows.

        Raises:
            GrammarError: there are none, or it needs too large an automaton.
        """
        return {"const": self._marker(expression, '"\\"" {} "\\""', path)}

    def bare_value(self, expression: Expression, path: tuple[str, ...]) -> dict[str, Any]:
        """A schema for the values whose JSON the expression allows.

        Raises:
            GrammarError: as above.
        """
        return {"const": self._marker(expression, "{}", path)}

    def listed(self, values: Sequence[Any]) -> dict[str, Any]:
        """A schema for these values, written as Python writes them: xgrammar writes 0.3 with 17
        digits."""
        written = (json.dumps(v, ensure_ascii=False, separators=(",", ":")) for v in values)
        body = " | ".join(map(literal, dict.fromkeys(written)))
        marker = self._listed.get(body)
        if marker is None:
            marker = self._listed[body] = self._new_marker(self._bare.named(body))
        return {"const": marker}

    def key(self, expression: Expression, path: tuple[str, ...]) -> str:
        """A pattern for the keys that the expression allows.

        Raises:
            GrammarError: as above.
        """
        return f"^{self._marker(expression, '', path)}$"

    def write(self, ebnf: str) -> str:
        """The grammar with a rule in the place of each marker."""
        marker = f"{self._mark}[0-9]+{self._mark}"
        used = rf'"\\"({marker})\\""|Regex\("\^({marker})\$", json_string=true\)'
        replaced = re.sub(used, lambda found: self._rules[found[1] or found[2]], ebnf)
        return "\n".join([replaced, *self._in_strings.rules, *self._bare.rules])

    def _marker(self, expression: Expression, frame: str, path: tuple[str, ...]) -> str:
        """A new marker for the expression.

        Args:
            frame: what surrounds the rule in the grammar; around a key's, xgrammar writes it.
        """
        if (expression, frame) not in self._markers:
            writer = self._bare if frame == "{}" else self._in_strings
            rule = _rule(writer, expression, path)
            marker = self._new_marker(frame.format(rule) if frame else rule)
            self._markers[expression, frame] = marker
        return self._markers[expression, frame]

    def _new_marker(self, text: str) -> str:
        marker = f"{self._mark}{len(self._rules)}{self._mark}"
        self._rules[marker] = text
        return marker


def _rule(writer: RuleWriter, expression: Expression, path: tuple[str, ...]) -> str:
    try:
        return writer.rule(expression)
    except GrammarError as error:
        raise GrammarError(error.message, path) from None
    except TooManyStatesError:
        raise GrammarError("is too large to be enforced", path) from None
