"""What steps cost on this machine: measured at the first start, and kept in the cache folder."""

import json
import math
from contextlib import suppress
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from platform import processor

import torch

from server.config import ModelSettings
from server.engine.drafters.drafter import Drafter
from server.engine.speculation.costs import CostCurve, StepCosts
from server.engine.speculation.tiers import Tier, TierCosts
from server.loading.profile import Profiled, measure_costs, still_hold
from server.report import Report

_DAMAGES = ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError
"""What reading a file of figures raises whose bytes are damaged."""


def profile_path(settings: ModelSettings, identity: str, device: torch.device) -> Path:
    """The file in which this machine's measurements of what `identity` names are kept."""
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    what = f"{identity}|{machine}|{torch.get_num_threads()}"
    key = blake2b(what.encode(), digest_size=8).hexdigest()
    return settings.cache_dir.expanduser() / "profiles" / f"{key}.json"


def step_costs(path: Path, target: Profiled, drafter: Drafter, report: Report) -> StepCosts:
    """What proposals cost: as an earlier start measured it, or measured anew where that is off."""
    stored = _stored_costs(path, report)
    if stored is not None and still_hold(stored, target):
        return stored
    report("measuring the cost of proposals on this machine …")
    costs = measure_costs(target, drafter)
    _keep(path, asdict(costs))
    return costs


def _stored_costs(path: Path, report: Report) -> StepCosts | None:
    """None where the file is missing or damaged: costs are then measured anew."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return StepCosts(_stored_curve(stored["verify"]), _stored_curve(stored["draft"], True))
    except OSError:
        return None
    except _DAMAGES:
        report(f"{path} is damaged")
        return None


def _stored_curve(stored: dict[str, list[float]], is_free: bool = False) -> CostCurve:
    """Reads a stored cost curve. Raises ValueError where it is none.

    Args:
        is_free: A look-up may have taken no time that the clock sees.
    """
    rows = tuple(int(count) for count in stored["rows"])
    seconds = tuple(float(value) for value in stored["seconds"])
    is_curve = 2 <= len(rows) == len(seconds) and list(rows) == sorted({0, *rows})[1:]
    is_cost = list(seconds) == sorted(seconds) and (is_free or seconds[0] > 0)
    if not is_curve or not is_cost or not all(0 <= value < math.inf for value in seconds):
        raise ValueError("not a cost curve")
    return CostCurve(rows, seconds)


def stored_tiers(path: Path) -> dict[tuple[int, Tier], float]:
    """Seconds of device steps by batch and tier. Empty where the file is missing or damaged: they
    are then measured anew."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        found = {(int(b), Tier(int(d), int(n))): float(s) for b, d, n, s in rows}
    except (OSError, *_DAMAGES):
        return {}
    return found if all(0 < seconds < math.inf for seconds in found.values()) else {}


def store_tiers(path: Path, costs: TierCosts) -> None:
    """Keeps them for later starts."""
    rows = [[batch, *tier, seconds] for (batch, tier), seconds in costs.seconds.items()]
    _keep(path, rows)


def _keep(path: Path, figures: object) -> None:
    """Writes figures where that is possible; else the next start measures them again."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(figures), encoding="utf-8")
