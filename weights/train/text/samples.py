"""Training text: JSONL or JSONL.gz, an object per line.

    {"prompt_ids": [1, 2], "response_ids": [3, 4]}     ids throughout
    {"prompt": "a user turn", "response_ids": [3, 4]}  the prompt goes through the chat template
    {"text_ids": [1, 2, 3, 4]}                         plain text

Other keys are ignored. Knows files and ids; how a prompt becomes ids is given to it.
"""

from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from server.errors import CheckpointError
from weights.train.text.json_lines import line_error, read_json_lines

TokenIds = npt.NDArray[np.int32]
PromptIds = Callable[[str], Sequence[int]]
"""A user turn -> ids of the chat up to where the answer begins."""

_HELD_OUT = 50
"""One prompt in so many is kept for validation."""


class Sample(NamedTuple):
    """A sequence to learn from."""

    token_ids: TokenIds
    first_loss: int
    """First position whose next token is learnt, at least 1: the first draft step needs a verified
    token before its own. The last such position is the last but one."""
    document: bytes | None = None
    """Of text without a prompt, a digest of all of it: it may be cut into several samples."""
    is_random: bool = False
    """Random tokens (`repeated.py`), which say nothing about the text to come."""

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_labels(self) -> int:
        """Positions first_loss .. num_tokens - 2."""
        return self.num_tokens - 1 - self.first_loss

    @property
    def digest(self) -> bytes:
        """Digest of the whole content."""
        key = self.first_loss.to_bytes(4, "little")
        return blake2b(self.token_ids.astype("<i4").tobytes(), key=key, digest_size=16).digest()

    @property
    def held_out(self) -> bool:
        """Whether it is for validation. Depends on the prompt alone, so that answers to one prompt
        stay together; of plain text on the whole document: many begin alike, and its pieces are
        about the same."""
        if self.is_random:
            return False
        key = self.document or _digest(self.token_ids[: self.first_loss + 1])
        return int.from_bytes(key, "little") % _HELD_OUT == 0


def read_samples(
    paths: Sequence[Path], prompt_ids: PromptIds, vocab_size: int, max_tokens: int
) -> list[Sample]:
    """All samples, in the files' order; see `read_files`."""
    return list(chain.from_iterable(read_files(paths, prompt_ids, vocab_size, max_tokens)))


def read_files(
    paths: Sequence[Path], prompt_ids: PromptIds, vocab_size: int, max_tokens: int
) -> list[list[Sample]]:
    """The samples of each file. Longer ones are cut, plain text into several; one without anything
    to learn is left out.

    Raises:
        CheckpointError: a file can't be read, a line is broken, or there is nothing in any file;
            names file and line.
    """
    files = [read_file(path, prompt_ids, vocab_size, max_tokens) for path in paths]
    if not any(files):
        raise CheckpointError(", ".join(map(str, paths)), "no text to learn from")
    return files


def read_file(path: Path, prompt_ids: PromptIds, vocab_size: int, max_tokens: int) -> list[Sample]:
    """The samples of one file, which may be none; see `read_files`."""
    samples = list[Sample]()
    for number, entry in read_json_lines(path):
        try:
            samples.extend(_parse(entry, prompt_ids, vocab_size, max_tokens))
        except ValueError as error:
            raise line_error(path, number, str(error)) from None
    return samples


def _parse(
    entry: dict[str, Any], prompt_ids: PromptIds, vocab_size: int, max_tokens: int
) -> Iterator[Sample]:
    """Raises ValueError with the reason."""
    if "text_ids" in entry:
        ids = _ids(entry, "text_ids", vocab_size)
        document = _digest(ids)
        for start in range(0, len(ids), max_tokens):
            yield from _sample(ids[start : start + max_tokens], 1, document)
        return
    if "response_ids" not in entry:
        raise ValueError("has neither 'response_ids' nor 'text_ids'")
    response = _ids(entry, "response_ids", vocab_size)
    prompt = _prompt(entry, prompt_ids, vocab_size)
    yield from _answer_sample(prompt, response, max_tokens)


def answer_sample(
    prompt_ids: Sequence[int], response_ids: Sequence[int], max_tokens: int
) -> Sample | None:
    """The sample that `read_samples` makes of an answer's line; None where that leaves it out."""
    prompt, response = (np.asarray(ids, dtype=np.int32) for ids in (prompt_ids, response_ids))
    return next(_answer_sample(prompt, response, max_tokens), None)


def _answer_sample(prompt: TokenIds, response: TokenIds, max_tokens: int) -> Iterator[Sample]:
    whole = np.concatenate((prompt, response))[:max_tokens]
    yield from _sample(whole, max(1, len(prompt) - 1))


def _prompt(entry: dict[str, Any], prompt_ids: PromptIds, vocab_size: int) -> TokenIds:
    if "prompt_ids" in entry:
        return _ids(entry, "prompt_ids", vocab_size)
    text = entry.get("prompt")
    if not isinstance(text, str):
        raise ValueError("has neither 'prompt_ids' nor a text 'prompt'")
    return np.asarray(prompt_ids(text), dtype=np.int32)


def _sample(ids: TokenIds, first_loss: int, document: bytes | None = None) -> Iterator[Sample]:
    if len(ids) >= first_loss + 2:
        yield Sample(ids, first_loss, document)


def _digest(ids: TokenIds) -> bytes:
    return blake2b(ids.astype("<i4").tobytes(), digest_size=8).digest()


def _ids(entry: dict[str, Any], key: str, vocab_size: int) -> TokenIds:
    value = entry[key]
    if not isinstance(value, list) or not all(type(item) is int for item in cast(list[Any], value)):
        raise ValueError(f"{key!r} must be a list of token ids")
    ids = cast(list[int], value)
    for token_id in (min(ids, default=0), max(ids, default=0)):
        if not 0 <= token_id < vocab_size:
            raise ValueError(f"{key!r} has id {token_id}, the target knows {vocab_size}")
    return np.asarray(ids, dtype=np.int32)
