"""What is done before the process ends, also where it ends at once."""

import os
from typing import NoReturn

import pytest

from server.api.http import server


class Ended(BaseException):
    """In place of the process's end."""


@pytest.mark.parametrize("end", [server.end_at_once, server.leave])
def test_calls_are_made_before_the_end_whatever_the_others_do(
    end: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = list[str]()

    def fails() -> None:
        raise RuntimeError("no such process")

    def leave(code: int) -> NoReturn:
        done.append(f"end {code}")
        raise Ended

    monkeypatch.setattr(server, "_last_calls", [])
    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr("logging.shutdown", lambda: None)
    server.at_any_end(fails)
    server.at_any_end(lambda: done.append("call"))
    with pytest.raises(Ended):
        if end is server.leave:
            server.leave(3)
        else:
            server.end_at_once(15)
    assert done == ["call", "end 3" if end is server.leave else "end 143"]
