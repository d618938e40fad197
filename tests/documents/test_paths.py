"""Files, folders and links that README and docs name are there."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
TREES = ("", "server", "server/engine", "server/engine/speculation", "server/engine/step", "docs")
"""Folders that a page's paths start from: a page about the engine says `step/host/verify.py`."""
_CODE = re.compile(r"`([\w.-]+(?:/[\w.-]+)+/?|[\w-]+\.(?:py|md|toml|txt|yml))`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_ANCHOR = re.compile(r'<a id="([^"]+)">')
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_NOT_OURS = re.compile(
    r"^(/|v1/|drafts/|org/|application/|text/(plain|event)|image/|http/|~)|\.work/|"
    r"^(config|run|notes|drafts|eval|model|card)\.(jsonl?|md|safetensors)$|-[A-Z]+$"
)
"""Paths of URLs, media types, hub ids and files that commands write."""


def _paths(page: Path) -> Iterator[str]:
    for name in _CODE.findall(page.read_text(encoding="utf-8")):
        last = name.rstrip("/").rsplit("/", 1)[-1]
        is_file = re.search(r"\.(py|md|toml|txt|yml|h|cpp|js|html)$", last) is not None
        is_folder = name.endswith("/") or name.split("/", 1)[0] in ("server", "weights", "tests")
        if (is_file or is_folder) and not _NOT_OURS.search(name):
            yield name


def _is_there(name: str) -> bool:
    if any((ROOT / tree / name).exists() for tree in TREES):
        return True
    return "/" not in name and any(ROOT.glob(f"*/**/{name}"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_are_there(page: Path) -> None:
    assert [name for name in _paths(page) if not _is_there(name)] == []


def test_the_file_map_of_the_readme_is_there() -> None:
    """Names of the indented tree under "Files", each below the line that is indented less."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## Files\n", 1)[1]
    found, above = list[Path](), list[tuple[int, Path]]()
    for line in re.findall(r"^    ( *\S+ .*)$", text.split("\n## ", 1)[0], re.MULTILINE):
        indent = len(line) - len(line.lstrip())
        name = line.split()[0]
        if indent > 12:  # a description that goes on
            continue
        above = [entry for entry in above if entry[0] < indent]
        path = (above[-1][1] if above else ROOT) / name
        found.append(path)
        above.append((indent, path))
    assert len(found) > 20
    assert [str(path) for path in found if not path.exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    broken = list[str]()
    for target in _LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"\w+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        if not file.exists() or (anchor and anchor not in _anchors(file)):
            broken.append(target)
    assert broken == []


def _anchors(page: Path) -> set[str]:
    """Those that GitHub makes of headings, and those that the page names."""
    text = page.read_text(encoding="utf-8")
    made = {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in _HEADING.findall(text)
    }
    return made | set(_ANCHOR.findall(text))
