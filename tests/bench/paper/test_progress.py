"""What is said of the time left."""

import pytest

from bench.paper import progress
from bench.paper.progress import RoundProgress, describe


def test_a_line() -> None:
    assert describe(12, 200, 212, 880, 12.3) == (
        "12 of 200, 212 of 880 in all, 12.3 s each, 2:16:56 left"
    )
    assert describe(3, 5, 3, 5, 2.0) == "3 of 5, 2.0 s each, 0:04 left"


def test_rounds_of_earlier_runs_and_the_warm_up_took_no_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, lines = [0.0], list[str]()
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "report", lines.append)
    with RoundProgress(num_rounds=100, num_done=90) as shown:
        now[0] = 1000.0
        shown.begin()
        now[0] = 1040.0
        shown.advance("gsm8k", 91, 100)
        now[0] = 1060.0
        shown.advance("gsm8k", 92, 100)  # 20 s after the last line: too soon
        for done in range(93, 101):
            shown.advance("gsm8k", done, 100)
    assert lines == [
        "gsm8k: 91 of 100, 40.0 s each, 6:00 left",
        "gsm8k: 100 of 100, 6.0 s each, 0:00 left",
    ]
