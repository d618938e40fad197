"""The training text on disk: one JSON line per answer.

    {"source": "gsm8k-17", "temperature": 0.0, "prompt_ids": […], "response_ids": […],
     "finish": "stop"}

`finish` is `stop` (the target ended its turn), `length` (the longest answer was reached), `loop`
(it went round in circles) or `cut` (the stage's time or tokens were used up); the last response id
of `stop` is the end token.
"""

from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

from weights.train.text.json_lines import AppendLog, line_error

AnswerKind = Literal["greedy", "sampled"]
Finish = Literal["stop", "length", "loop", "cut"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the target said to one prompt."""

    source: str
    """Where the prompt came from: its id, `FILE:LINE`, or `self-INDEX`."""
    temperature: float
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    finish: Finish


def kind_of(temperature: float) -> AnswerKind:
    return "greedy" if temperature == 0 else "sampled"


def answer_key(prompt_ids: Sequence[int], kind: AnswerKind) -> bytes:
    """Tells (prompt, kind) apart; a digest, because a long run has a hundred thousand of them."""
    return blake2b(array("q", prompt_ids).tobytes(), digest_size=16, key=kind.encode()).digest()


class TextStore:
    """Answers written so far. A line torn by a kill is cut off when the file is opened.

    Raises:
        CheckpointError: a line is broken; names it.
    """

    def __init__(self, path: Path) -> None:
        self.num_tokens = 0
        """Response tokens in the file."""
        self.num_answers = 0
        self._keys: set[bytes] = set()
        self._path = path
        self._log = AppendLog(path, self._read)

    def claim(self, key: bytes) -> bool:
        """Whether the answer is still to be given; True only once per key."""
        if key in self._keys:
            return False
        self._keys.add(key)
        return True

    def add(self, answer: Answer) -> None:
        """Appends a claimed answer."""
        self._log.append(asdict(answer))
        self.num_answers += 1
        self.num_tokens += len(answer.response_ids)

    def close(self) -> None:
        self._log.close()

    def _read(self, number: int, value: dict[str, Any]) -> None:
        try:
            prompt_ids = [int(token_id) for token_id in value["prompt_ids"]]
            self.num_tokens += len(value["response_ids"])
            kind = kind_of(float(value["temperature"]))
        except (KeyError, TypeError, ValueError, OverflowError):
            reason = "expected temperature, prompt_ids and response_ids"
            raise line_error(self._path, number, reason) from None
        self.num_answers += 1
        self._keys.add(answer_key(prompt_ids, kind))
