"""What a container's limits leave of the machine."""

from pathlib import Path

import pytest
import torch

from server.loading import machine


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("150000 100000", 1),
        ("50000 100000", 1),
        ("1600000 100000", 8),
        ("broken", 8),
        (None, 8),
    ],
)
def test_threads_stay_within_the_cpu_limit(
    written: str | None, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a machine with eight cores; without a file there is no limit."""
    if written is not None:
        (tmp_path / "cpu.max").write_text(f"{written}\n")
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert machine.default_threads.__wrapped__() == expected
