"""Formats: what is written is read by the standard library, and ordinary values can be written."""

import ipaddress
import uuid
from collections.abc import Callable
from datetime import date, datetime, time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.grammar.schema.formats import PATTERNS
from server.engine.types import Grammar
from tests.engine.grammar.bytes import matches

READERS: dict[str, Callable[[str], object]] = {
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "date-time": datetime.fromisoformat,
    "ipv4": ipaddress.IPv4Address,
    "ipv6": ipaddress.IPv6Address,
    "uuid": uuid.UUID,
}


@pytest.mark.parametrize("name", READERS)
def test_what_is_written_is_read(name: str) -> None:
    @settings(max_examples=30, derandomize=True, database=None, deadline=None)
    @given(st.from_regex(f"(?a){PATTERNS[name]}", fullmatch=True))
    def read(text: str) -> None:
        READERS[name](text)

    read()


# (format, values of it, others)
EXAMPLES: list[tuple[str, list[str], list[str]]] = [
    ("date", ["2024-02-29", "2000-02-29", "1999-12-31"], ["1900-02-29", "2023-02-29"]),
    ("date-time", ["2024-01-31T23:59:59.123Z", "2024-01-31T00:00:00+02:00"], ["2024-01-31"]),
    ("time", ["12:30:00Z"], ["24:00:00Z", "12:30Z"]),
    ("duration", ["P1DT2H", "PT5M", "P2W", "P1Y2M3D"], ["P", "PT", "1D", "P1D2M"]),
    ("email", ["ada.l+x@mail.example.org"], ["a@b", ".a@b.co", "a..b@c.de", "a@-b.co", "a@b..co"]),
    ("hostname", ["a", "a-b.example.org"], ["-a", "a-", "a..b", ""]),
    ("ipv4", ["0.0.0.0", "255.1.20.199"], ["256.1.1.1", "1.1.1", "01.1.1.1"]),
    ("ipv6", ["::", "::1", "2001:db8::8a2e:370:7334", "1:2:3:4:5:6:7:8", "::ffff:1.2.3.4", "1::"],
     ["1:2:3:4:5:6:7", ":::", "1::2::3", "1:2:3:4:5:6:7:8:9", "12345::"]),
    ("uuid", ["123e4567-e89b-12d3-a456-426614174000"], ["123e4567e89b12d3a456426614174000"]),
    ("uri", ["https://a.example/b/c?d=e&f=%20#g", "mailto:a@b.co", "urn:isbn:1", "http://[::1]:80/"],
     ["a/b", "https://a b", "http://a/%zz", "//a"]),
    ("uri-reference", ["/a/b", "a?b", "", "#c", "//h/x", "https://a.b"], ["a b", "1:a b"]),
    ("uri-template", ["/users/{id}/x{?page,size*}", "a"], ["{", "{a", "a b", "{a b}"]),
    ("json-pointer", ["", "/a~1b/0"], ["a", "/~2"]),
    ("relative-json-pointer", ["0", "1/a", "2#"], ["-1", "01", "/a"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "good", "bad"), EXAMPLES, ids=lambda v: v if v is str else "")
def test_examples(name: str, good: list[str], bad: list[str]) -> None:
    grammar = Grammar("json_schema", f'{{"type": "string", "format": "{name}"}}')
    for text in good:
        assert matches(grammar, f'"{text}"'), text
    for text in bad:
        assert not matches(grammar, f'"{text}"'), text
