"""How a model wants to be sampled where a request says nothing: `generation_config.json`.

Of it temperature, top_p, top_k, min_p and repetition_penalty are taken, as vLLM takes them; its
`do_sample` is not asked, and limits of length stay the client's. A GGUF file's `general.sampling.*`
are in the generation_config.json that it is converted to.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from server.config import DEFAULT_MODEL
from server.errors import CheckpointError
from server.setting_types import GenerationConfig
from weights.checkpoint import read_json

FILE = "generation_config.json"

OF_DEFAULT_MODEL = {"temperature": 0.2, "top_p": 0.9}
"""What SmolLM2's authors recommend; the GGUF file doesn't have it."""

Number = int | float

_RANGES: Mapping[str, tuple[str, Callable[[Number], bool]]] = {
    "temperature": ("0 to 2", lambda value: 0 <= value <= 2),
    "top_p": ("0 to 1", lambda value: 0 <= value <= 1),
    "top_k": ("a whole number from -1 on", lambda value: value >= -1 and value % 1 == 0),
    "min_p": ("0 to 1", lambda value: 0 <= value <= 1),
    "repetition_penalty": ("0.01 to 100", lambda value: 0.01 <= value <= 100),
}
"""What a request may say, too."""


def read_sampling(folder: Path, model: str, source: GenerationConfig) -> dict[str, Number]:
    """The settings that the model names, by their names in a request; empty for OpenAI's.

    Args:
        folder: of the checkpoint.
        model: as the user named it.

    Raises:
        CheckpointError: the file is broken, or a value is none that a request could have.
    """
    if source == "openai":
        return {}
    if model == DEFAULT_MODEL:
        return dict(OF_DEFAULT_MODEL)
    path = folder / FILE
    if not path.exists():
        return {}
    config = read_json(path)
    return {
        name: _checked(path, name, config[name]) for name in _RANGES if config.get(name) is not None
    }


def _checked(path: Path, name: str, value: object) -> Number:
    expected, fits = _RANGES[name]
    if isinstance(value, int | float) and not isinstance(value, bool) and fits(value):
        return value
    reason = f"{name} is {value!r}, expected {expected}; --generation-config openai leaves it out"
    raise CheckpointError(path, reason)
