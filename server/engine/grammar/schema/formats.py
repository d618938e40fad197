"""Formats of strings, as regular expressions: RFC 3339, 3986, 4122, 5321, 6570, 6901. Pure."""

from collections.abc import Callable, Mapping
from functools import cache, partial
from types import MappingProxyType

from server.engine.grammar.regular.expression import Expression
from server.engine.grammar.regular.syntax import python_pattern

_YEAR = r"(?:[1-9]\d{3}|0[1-9]\d\d|00[1-9]\d|000[1-9])"
_FOURTH = r"(?:0[48]|[2468][048]|[13579][26])"
_DATE = (
    rf"(?:{_YEAR}-(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|1\d|2[0-8])|(?:0[13-9]|1[0-2])-(?:29|30)"
    rf"|(?:0[13578]|1[02])-31)|(?:\d\d{_FOURTH}|{_FOURTH}00)-02-29)"
)
_CLOCK = r"(?:[01]\d|2[0-3]):[0-5]\d"
_TIME = rf"{_CLOCK}:[0-5]\d(?:\.\d{{1,6}})?(?:Z|[+-]{_CLOCK})"
_DAYS, _SECONDS = r"\d+D", r"\d+S"
_MONTHS, _MINUTES = rf"\d+M(?:{_DAYS})?", rf"\d+M(?:{_SECONDS})?"
_YEARS, _HOURS = rf"\d+Y(?:{_MONTHS})?", rf"\d+H(?:{_MINUTES})?"
_OF_DAY = rf"T(?:{_HOURS}|{_MINUTES}|{_SECONDS})"
_DURATION = rf"P(?:\d+W|(?:{_YEARS}|{_MONTHS}|{_DAYS})(?:{_OF_DAY})?|{_OF_DAY})"

# Repetitions are not nested where they need not be: a length can be divided among fewer then.
_HOSTNAME = r"[A-Za-z0-9](?:[.-]?[A-Za-z0-9])*"
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"
_EMAIL = rf"{_ATOM}(?:\.?{_ATOM})*@{_HOSTNAME}\.[A-Za-z]{{2,24}}"
_BYTE = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IPV4 = rf"{_BYTE}(?:\.{_BYTE}){{3}}"
_GROUP = r"[0-9A-Fa-f]{1,4}"
_IPV6 = "|".join(
    [
        rf"(?:{_GROUP}:){{7}}{_GROUP}",
        rf"(?:{_GROUP}:){{6}}{_IPV4}",
        # `::` stands for at least one group; so many may follow as the ones before it leave.
        *(
            rf"{_GROUP}(?::{_GROUP}){{{before - 1}}}::(?:{_GROUP}(?::{_GROUP}){{0,{6 - before}}})?"
            for before in range(1, 7)
        ),
        rf"{_GROUP}(?::{_GROUP}){{6}}::",
        rf"::(?:{_GROUP}(?::{_GROUP}){{0,6}}|(?:ffff:)?{_IPV4})?",
    ]
)
_UUID = r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"
_SEGMENT = r"(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})"
_HOST = r"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])"
_REST = rf"(?:\?(?:{_SEGMENT}|[/?])*)?(?:#(?:{_SEGMENT}|[/?])*)?"
_SEGMENTS = rf"(?:{_SEGMENT}|/)*"
_SLASHES = rf"//{_HOST}(?::\d{{1,5}})?(?:/{_SEGMENTS})?"
_PATH = rf"{_SEGMENT}{_SEGMENTS}"
_URI = rf"[A-Za-z][A-Za-z0-9+.-]*:(?:{_SLASHES}|/?{_PATH}){_REST}"
_FIRST = _SEGMENT.replace(":@", "@")
_URI_REFERENCE = rf"{_URI}|(?:{_SLASHES}|/(?:{_PATH})?|{_FIRST}+(?:/{_SEGMENTS})?)?{_REST}"
_VARIABLE = r"[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)*(?::[1-9]\d{0,3}|\*)?"
_URI_TEMPLATE = (
    r"(?:[A-Za-z0-9._~:/?#\[\]@!$&()*+,;=-]|%[0-9A-Fa-f]{2}"
    rf"|\{{[+#./;?&]?{_VARIABLE}(?:,{_VARIABLE})*\}})*"
)
_JSON_POINTER = r"(?:/(?:[^~/]|~[01])*)*"

PATTERNS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": rf"{_DATE}T{_TIME}",
    "duration": _DURATION,
    "email": _EMAIL,
    "idn-email": _EMAIL,
    "hostname": _HOSTNAME,
    "idn-hostname": _HOSTNAME,
    "ipv4": _IPV4,
    "ipv6": _IPV6,
    "uuid": _UUID,
    "uri": _URI,
    "iri": _URI,
    "uri-reference": _URI_REFERENCE,
    "iri-reference": _URI_REFERENCE,
    "uri-template": _URI_TEMPLATE,
    "json-pointer": _JSON_POINTER,
    "relative-json-pointer": rf"(?:0|[1-9]\d*)(?:#|{_JSON_POINTER})",
}


@cache
def _texts(name: str) -> Expression:
    return python_pattern(f"(?a){PATTERNS[name]}")


FORMATS: Mapping[str, Callable[[], Expression]] = MappingProxyType(
    {name: partial(_texts, name) for name in PATTERNS}
)
"""Expressions by format; each is made when it is first needed."""
UNENFORCED_FORMATS = frozenset({"regex"})
"""Formats of JSON Schema for which there is no expression. All others are annotations."""
