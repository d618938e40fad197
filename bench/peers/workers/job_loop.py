"""The worker's half of the protocol: JSON jobs on stdin, one JSON answer a line on stdout.

    worker   {"about": {"version": "0.3.36", …}}                      once, when loaded
    bench    {"job": "generate", "prompts": [[1, 2], …], "new_tokens": 8}
    worker   {"seconds": 0.1, "token_ids": [[3, …], …]}   or   {"error": "ValueError: …"}

`generate` answers each prompt greedily with exactly new_tokens tokens, all prompts at once; its
clock stops when the last answer is there. `score`, where a system has it, returns the sum of
-log P(token) over all tokens of `windows` but each one's first.

Libraries print to stdout as they please: it is given to them as stderr before they are imported.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TextIO

Job = Callable[..., dict[str, Any]]


class System(NamedTuple):
    """A loaded system, ready for jobs."""

    about: dict[str, str]
    """At least `version`, `weights` (their precision) and `way` (how it runs several prompts)."""
    jobs: Mapping[str, Job]


def run(load: Callable[[dict[str, Any]], System]) -> None:
    """Loads the system by the JSON in the first argument and serves jobs until stdin ends."""
    answers = _claim_stdout()
    try:
        system = load(json.loads(sys.argv[1]))
    except Exception as error:
        _send(answers, _describe(error))
        raise
    _send(answers, {"about": system.about})
    for line in sys.stdin:
        job = json.loads(line)
        try:
            answer = system.jobs[job.pop("job")](**job)
        except Exception as error:
            answer = _describe(error)
        _send(answers, answer)


def _claim_stdout() -> TextIO:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _describe(error: Exception) -> dict[str, Any]:
    return {"error": f"{type(error).__name__}: {error}"}


def _send(answers: TextIO, value: dict[str, Any]) -> None:
    answers.write(json.dumps(value) + "\n")
    answers.flush()
