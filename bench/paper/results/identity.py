"""Which rounds may stand in one table: those of the same draft, target, methods, settings, code and
machine. Which prompts they are of is left out, so that more of them can be measured later.
"""

from collections.abc import Sequence
from hashlib import blake2b, file_digest
from pathlib import Path

import server
from bench.paper.measure.about import About
from bench.paper.measure.methods import Method
from bench.paper.results.journal import Identity
from server.config import ModelSettings
from server.loading.model import LoadedModel

_ELSEWHERE = ("model", "draft", "cache_dir", "prefix_caching")
"""Settings that say where something lies, or that an evaluation sets itself."""
_MEASURED_CODE = "engine", "kernels", "models"
"""The packages of the server whose time is measured."""


def run_identity(
    model: LoadedModel,
    settings: ModelSettings,
    methods: Sequence[Method],
    draft_model: str | None,
    about: About,
) -> Identity:
    """The identity: entry → value, readable for people too.

    Args:
        draft_model: the value of `--draft-model`.
    """
    given = settings.model_dump(mode="json", exclude=set(_ELSEWHERE))
    return {
        "draft": f"{about.draft} {_digest(settings.draft)}",
        "draft_model": "none" if draft_model is None else f"{draft_model} {_digest(draft_model)}",
        "target": f"{about.target} {model.facts.identity}",
        "methods": ", ".join(method.name for method in methods),
        "tokens": str(about.new_tokens),
        "sampling": about.sampling,
        "machine": f"{about.device}, {about.processor}, {about.num_cpus} CPUs",
        "versions": ", ".join(f"{name} {version}" for name, version in about.versions.items()),
        "code": _code_digest(),
        **{name: str(value) for name, value in given.items()},
    }


def _digest(name: str) -> str:
    """A digest of a folder's content: a draft that is trained further keeps its name, and a copied
    one keeps its weights. Empty for a hub id, which identifies the content by itself."""
    path = Path(name).expanduser()
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    files += path.glob("config.json")
    if not files:
        return ""
    return _digest_files(files)


def _code_digest() -> str:
    """A digest of the code that is measured: the version alone stays the same while somebody works
    on a kernel."""
    root = Path(server.__file__).parent
    files = [path for part in _MEASURED_CODE for path in sorted((root / part).rglob("*.*"))]
    return _digest_files([path for path in files if path.suffix in (".py", ".cpp", ".h")])


def _digest_files(files: Sequence[Path]) -> str:
    total = blake2b(digest_size=8)
    for file in files:
        with file.open("rb") as content:
            total.update(file_digest(content, blake2b).digest())
    return total.hexdigest()
