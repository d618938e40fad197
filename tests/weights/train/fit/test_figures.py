"""Means over steps, the line of a running training, and the picture of its curve."""

import re
import sys
from pathlib import Path

import pytest

from weights.train.fit.checkpoint import RunState
from weights.train.fit.figures import (
    Averages,
    draw_curve,
    train_record,
    training_line,
    validation_record,
)
from weights.train.fit.schedule import Budget
from weights.train.fit.trainer import StepResult
from weights.train.fit.validate import Validation


def averages() -> Averages:
    found = Averages()
    found.add(StepResult(loss=2.0, rows=(8, 2), right=(4, 2), tokens=10))
    found.add(StepResult(loss=4.0, rows=(2, 0), right=(1, 0), tokens=20))
    return found


def test_figures_are_means_over_rows() -> None:
    found = averages()
    assert found.loss == 3.0
    assert found.agreement == (0.5, 1.0)


def test_line() -> None:
    line = training_line(RunState(step=1234, epoch=1), averages(), Budget(None, 3725.0))
    assert re.fullmatch(
        r"step 1,234, epoch 2: loss 3\.000, agreement at delay 1, 2, …: 50 100 %, "
        r"[\d,]+ tokens/s, 1:02:05 left",
        line,
    )


def test_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [
        validation_record(RunState(), Validation(5.0, (0.1, 0.05), 1.1)),
        train_record(RunState(step=20, tokens=1000), averages(), 1e-3),
    ]
    assert draw_curve(tmp_path, records)
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert not draw_curve(tmp_path, records)
