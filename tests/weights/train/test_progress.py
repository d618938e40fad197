"""What a person sees on a terminal, and without one."""

import io

import pytest
from rich.console import Console

from weights.train.progress import clock, describe, feature_bar, live_line, text_bar
from weights.train.text.generate import Progress


@pytest.mark.parametrize("is_terminal", [False, True])
def test_both_kinds_of_output(is_terminal: bool) -> None:
    console = Console(file=(file := io.StringIO()), force_terminal=is_terminal, width=120)
    with feature_bar(console, 100) as advance:
        advance(40)
        advance(60)
    with text_bar(console, 20_000, None) as tell:
        tell(Progress(5_000, 20, 250.0, 20.0, 0))
    with live_line(console) as show:
        show("now")
        show("later")
    text = file.getvalue()
    assert "target's forward" in text
    assert "5,000 of 20,000 tokens, 250/s, 1:00 left" in text
    assert ("later" in text) is is_terminal, "without a terminal a line now and then is enough"


def test_the_line_of_progress() -> None:
    progress = Progress(5_000, 20, 250.0, 20.0, 0)
    assert describe(progress, 20_000, None) == "5,000 of 20,000 tokens, 250/s, 1:00 left"
    assert describe(progress, 20_000, 30.0) == "5,000 of 20,000 tokens, 250/s, 0:10 left"
    assert clock(3725.2) == "1:02:05"
