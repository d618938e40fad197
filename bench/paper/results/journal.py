"""Every prompt round of an evaluation, on disk as soon as it is measured, so that it can be
resumed.

A JSON-lines file. Its lines, the first one first:

    {"identity": {…}}                                  what the rounds were measured with and on
    {"started": "2026-01-01T00:00:00+00:00"}           per run
    {"data_set": …, "prompt": digest, "round": {…}}    per prompt, see `records.py`

Knows nothing of what the identity's entries mean.
"""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from bench.paper.report.figures import PromptResult
from bench.paper.results.records import from_record, to_record
from weights.train.text.json_lines import AppendLog, line_error

Identity = Mapping[str, str]


class RoundKey(NamedTuple):
    """Identifies a round's prompt. The id alone may name another text in an edited file."""

    data_set: str
    id: str
    digest: str


def round_key(data_set: str, prompt_id: str, token_ids: Sequence[int]) -> RoundKey:
    """The key of a prompt with these tokens."""
    text = ",".join(map(str, token_ids))
    return RoundKey(data_set, prompt_id, blake2b(text.encode(), digest_size=16).hexdigest())


class Journal:
    """Reads the journal; a last line that a kill left incomplete is cut off.

    Raises:
        CheckpointError: the file can't be read or written, or is no journal; names the line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.identity: Identity | None = None
        """None in a new journal."""
        self.started: list[str] = []
        """When each run started, in ISO 8601."""
        self.rounds: dict[RoundKey, PromptResult] = {}
        self._log = AppendLog(path, self._read)

    def begin(self, identity: Identity, started: str) -> None:
        """Notes the start of a run, the first one or one that continues."""
        if self.identity is None:
            self.identity = identity
            self._log.append({"identity": identity})
        self.started.append(started)
        self._log.append({"started": started})

    def add(self, key: RoundKey, result: PromptResult) -> None:
        """Appends a line. The system has it when this returns: a killed process loses nothing."""
        self.rounds[key] = result
        record = to_record(result)
        self._log.append({"data_set": key.data_set, "prompt": key.digest, "round": record})

    def close(self) -> None:
        """Flushes the file to disk and closes it."""
        self._log.close()

    def _read(self, number: int, line: dict[str, Any]) -> None:
        try:
            if "identity" in line:
                self.identity = {str(key): str(value) for key, value in line["identity"].items()}
            elif "started" in line:
                self.started.append(str(line["started"]))
            else:
                result = from_record(line["round"])
                key = RoundKey(str(line["data_set"]), result.id, str(line["prompt"]))
                self.rounds[key] = result
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise line_error(self.path, number, f"is no round of an evaluation: {error}") from None
