"""The environment as a source of settings: what of it is meant, and what is a mistake."""

import os
import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import EnvSettingsSource

from server.errors import ConfigError

ENV_PREFIX = "GLIDECAPE_"

_OF_KUBERNETES = re.compile(
    r"(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
"""What it sets in every container for a Service whose name begins with `glidecape`."""
_SERVICE_URL = re.compile(r"(tcp|udp|sctp)://\S+:\d+", re.IGNORECASE)
"""The value that it gives `GLIDECAPE_PORT` for a Service named `glidecape`."""
_NO_SETTINGS = frozenset({"CPU_KERNELS", "FUZZ_EXAMPLES"})
"""Variables that others read: the kernels, and this project's tests."""


class Environment(EnvSettingsSource):
    """The environment without what Kubernetes put there under a setting's name."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        value, key, is_complex = super().get_field_value(field, field_name)
        if isinstance(value, str) and _SERVICE_URL.fullmatch(value):
            value = None if _OF_KUBERNETES.fullmatch(field_name.upper()) else value
        return value, key, is_complex


def check_environment(settings: Iterable[str]) -> None:
    """Refuses environment variables that look like settings and are none.

    Args:
        settings: the names of all there are.

    Raises:
        ConfigError: a variable is called like a setting, but there is none of that name. The value
            is not shown: it may be a key.
    """
    known = [name.upper() for name in settings]
    for name in sorted(os.environ):
        rest = name.upper().removeprefix(ENV_PREFIX)
        is_ours = rest != name.upper() and rest not in _NO_SETTINGS
        if not is_ours or rest in known or _OF_KUBERNETES.fullmatch(rest):
            continue
        close = get_close_matches(rest, known, n=1)
        hint = f"; did you mean {ENV_PREFIX}{close[0]}?" if close else ""
        raise ConfigError(name, "…", f"there is no such setting{hint}")
