"""Names of GGUF files: of models in several files, and of the one model that a folder holds.

A large model comes in parts, `name-00001-of-00003.gguf` and so on. Any of them stands for all.
Knows names alone; `file.py` reads what is inside, and checks that the parts belong together.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from server.errors import CheckpointError

_PART = re.compile(r"(?P<name>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})")
_NO_TEXT_MODEL = ("mmproj", "imatrix")
"""How the names of files begin that lie beside a model: an image encoder, statistics."""


def is_gguf(path: Path) -> bool:
    return path.suffix.lower() == ".gguf"


def gguf_name(path: Path) -> str:
    """What a GGUF model is called: the file's name without its suffix and a part's numbers."""
    match = _PART.fullmatch(path.stem)
    return match["name"] if match else path.stem


def gguf_parts(path: Path) -> tuple[Path, ...]:
    """All files of the model that a file belongs to, in order; the file alone where its name has no
    numbers.

    Raises:
        CheckpointError: parts are missing, by name.
    """
    match = _PART.fullmatch(path.stem)
    if match is None:
        return (path,)
    count = int(match["count"])
    if not 1 <= int(match["number"]) <= count:
        raise CheckpointError(path, f"its name says part {int(match['number'])} of {count}")
    names = [f"{match['name']}-{i:05}-of-{count:05}{path.suffix}" for i in range(1, count + 1)]
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing and count > 1:
        plural = "part" if len(missing) == 1 else "parts"
        raise CheckpointError(
            path, f"{len(missing)} {plural} of {count} missing beside it: {_shown(missing)}"
        )
    return tuple(path.parent / name for name in names)


def gguf_in(folder: Path) -> Path | None:
    """The GGUF model that a folder holds, its first part; None where it holds none.

    Raises:
        CheckpointError: it holds several, of which one has to be named.
    """
    files = sorted(file for file in folder.iterdir() if is_gguf(file) and file.is_file())
    firsts: dict[str, Path] = {}
    for file in files:
        if not file.name.startswith(_NO_TEXT_MODEL):
            firsts.setdefault(gguf_name(file), file)
    if len(firsts) > 1:
        shown = _shown(file.name for file in firsts.values())
        raise CheckpointError(folder, f"holds {len(firsts)} GGUF models, name one: {shown}")
    return next(iter(firsts.values()), None)


def _shown(names: Iterable[str], most: int = 8) -> str:
    found = list(names)
    return ", ".join(found[:most]) + (" …" if len(found) > most else "")
