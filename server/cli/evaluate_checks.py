"""What `glidecape eval` was given and would not use is refused by name, before anything is loaded:
a figure should never be of something else than was asked for.
"""

from collections.abc import Collection

from server.config import ModelSettings
from server.errors import ConfigError

_OWN_DEPTHS = "speculation_policy", "speculation_depth", "speculation_nodes", "beam_width"
_ABLATION_USES = "model", "cache_dir", "device", "dtype", "quantization"


def check_evaluation(settings: ModelSettings, steps: int | None) -> None:
    """Checks the options of a measurement.

    Raises:
        ConfigError: names what is not used.
    """
    _refuse(settings, _OWN_DEPTHS, "the methods that are compared have the paper's depths")
    _refuse(settings, ("tensor_parallel_size",), "eval runs target and draft in one process")
    if steps is not None:
        raise ConfigError("steps", steps, "is for --ablate")


def check_ablation(settings: ModelSettings, **given: object) -> None:
    """Checks the options of the layer study, which trains as `glidecape train` does.

    Args:
        given: options of the command that only a measurement uses; None and empty ones are not
            given.

    Raises:
        ConfigError: names what is not used, or can't be.
    """
    for name, value in given.items():
        if value:
            raise ConfigError(name, value, "--ablate measures no draft that is given")
    others = [name for name in ModelSettings.model_fields if name not in _ABLATION_USES]
    _refuse(settings, others, "--ablate does not use it")
    _check_device(settings)
    if settings.dtype == "float16":
        raise ConfigError("dtype", settings.dtype, "--ablate trains in float32 or bfloat16")
    if settings.quantization not in ("auto", "none"):
        reason = "--ablate reads the target's weights in dtype"
        raise ConfigError("quantization", settings.quantization, reason)


def _check_device(settings: ModelSettings) -> None:
    from server.loading.machine import pick_device  # torch takes a second to import

    found = pick_device("auto")
    if pick_device(settings.device) != found:
        raise ConfigError("device", settings.device, f"--ablate trains on {found.type} here")


def _refuse(settings: ModelSettings, names: Collection[str], reason: str) -> None:
    """A default is no wish of the user's, wherever it was written."""
    for name in names:
        value = getattr(settings, name)
        if value != ModelSettings.model_fields[name].default:
            raise ConfigError(name, value, reason)
