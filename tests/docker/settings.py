"""What the Dockerfile says, and the settings that a container's command and environment come to."""

import re
from pathlib import Path

from server.config import ServerSettings, load_settings

ROOT = Path(__file__).parents[2]


def instructions() -> list[tuple[str, str]]:
    """(instruction, the rest) of the Dockerfile, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    pairs = (line.split(maxsplit=1) for line in lines if line.strip())
    return [(name, rest) for name, rest in pairs]


def named(name: str) -> list[str]:
    return [rest for found, rest in instructions() if found == name]


def settings_of(command: list[str], environment: dict[str, str]) -> ServerSettings:
    """Settings of `serve` with options that have a value each; a bad one raises."""
    assert command[0] == "serve"
    options = zip(command[1::2], command[2::2], strict=True)
    given = {name.removeprefix("--").replace("-", "_"): value for name, value in options}
    given |= {name.removeprefix("GLIDECAPE_").lower(): text for name, text in environment.items()}
    return load_settings(ServerSettings, **given)
