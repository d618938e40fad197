"""Prompts that the target writes itself (Magpie, arXiv 2406.08464).

An instruct model that is shown its chat template up to where a user's text begins goes on with what
a user would ask. That gives as many prompts as wanted, of the kind the model was tuned on, and no
data set is needed.

Small models begin most prompts alike: of 4,386 that the default model wrote, 29 % with "Can you"
and 32 % with "I'm" or "I am"; of 1,718 answers four had SQL. So every other prompt is given its
first words, of which a third ask for a program, a query, something made of data or a sum.
"""

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from server.engine.types import Request, RequestId, SamplingParams
from server.errors import UnsupportedModelError
from server.text.chat_template import ChatTemplate
from server.text.stream import TextStream
from server.text.tokenizer import Tokenizer
from weights.train.text.json_lines import AppendLog, line_error
from weights.train.text.prompts import user_turn
from weights.train.text.target import Generates

_SENTINEL = "GLIDECAPEUSERTEXT"
_MAX_PROMPT_TOKENS = 200
"""A longer one is most often a model that does not find its end, and is dropped."""
_OPENINGS = (
    *("What", "How", "Why", "When", "Where", "Which", "Who", "Is", "Are", "Does", "Should", "If"),
    *("Explain", "Describe", "Define", "Compare", "Summarize", "Discuss", "Analyze", "Evaluate"),
    *("Write", "Create", "Generate", "Compose", "Design", "Draft", "Rewrite", "Edit", "Translate"),
    *("Give", "List", "Name", "Suggest", "Provide", "Identify", "Find", "Classify", "Calculate"),
    *("Implement", "Convert", "Complete", "Tell me", "Suppose", "Imagine", "Please", "The", "A"),
    *("Write a Python function", "Write a program", "Write a class", "Write a script", "def"),
    *("Write a SQL query", "Given the tables", "CREATE TABLE", "Translate the question into SQL"),
    *("Given the following code", "What does this code do?", "Fix the bug", "Complete this code"),
    *("Write a JavaScript function", "Write an HTML page", "Write a regular expression"),
    *("Given a list of", "Given a string", "Convert this to JSON", "Make a table of"),
    *("Calculate the", "How many", "Extract the"),
    *("If a train", "A store sells", "A class of 30", "Tom has 12", "Solve the equation"),
)
"""Words with which questions, tasks and texts begin; then those of programs, queries,
data and sums."""


@dataclass(frozen=True, slots=True)
class UserHeader:
    """A chat up to where the user's text begins, and how that text ends."""

    token_ids: tuple[int, ...]
    """Includes the system turn that the template adds by itself."""
    stop_token_ids: frozenset[int]
    """What the template writes first after the user's text, where that is a special token."""
    stop_string: str | None
    """The same, where it is text."""


def user_header(template: ChatTemplate, tokenizer: Tokenizer) -> UserHeader:
    """Finds the header by rendering a chat with a text that can be found again.

    Raises:
        InvalidRequestError: there is no template, or it refuses a single user turn.
        UnsupportedModelError: the template does not write the user's text as it is.
    """
    before, found, after = user_turn(_SENTINEL, template).rpartition(_SENTINEL)
    # A space that was split off its word would be tokens the model has never seen.
    token_ids = tuple(tokenizer.encode(before.rstrip(" "), add_special_tokens=False))
    if not found or not token_ids:
        raise UnsupportedModelError(
            "the chat template has no bare user header, so the target can't write prompts itself; "
            "give some with --prompts"
        )
    end = (after.strip() or after).split("\n")[0] or "\n"
    first = tokenizer.encode(end, add_special_tokens=False)[0]
    if first in tokenizer.special_ids:
        return UserHeader(token_ids, frozenset({first}), None)
    return UserHeader(token_ids, frozenset(), end)


def opening(number: int) -> str:
    """What a prompt begins with; empty for every other one of random numbers.

    Args:
        number: not negative.
    """
    return "" if number % 2 else _OPENINGS[number // 2 % len(_OPENINGS)]


async def write_prompt(
    engine: Generates,
    tokenizer: Tokenizer,
    header: UserHeader,
    name: str,
    begins: str,
    seed: int,
    is_over: Callable[[], bool],
) -> str | None:
    """A user's text at temperature 1, or None where nothing is written, it has no end, or is no
    text.

    Args:
        begins: what the text begins with.
        is_over: where this becomes true the text is broken off.
    """
    params = SamplingParams(
        max_tokens=_MAX_PROMPT_TOKENS,
        temperature=1.0,
        seed=seed,
        stop_token_ids=header.stop_token_ids,
    )
    stream = TextStream[None](tokenizer, stop=(header.stop_string,) if header.stop_string else ())
    text, has_ended = "", False
    given = tokenizer.encode(begins, add_special_tokens=False)
    request = Request(RequestId(name), (*header.token_ids, *given), params)
    async with aclosing(engine.generate(request)) as outputs:
        async for output in outputs:
            delta = stream.push(
                output.token_ids,
                ended=output.finish_reason is not None,
                has_stop_token=output.stop_token_id is not None,
            )
            text += delta.text
            has_ended = output.finish_reason == "stop" or delta.stop_string is not None
            if delta.stop_string is not None or is_over():
                break
    is_usable = has_ended and text.strip() and "\ufffd" not in text
    return (begins + text).strip() if is_usable else None


class SelfPrompts:
    """The self-written prompts on disk: `{"index": 5, "prompt": "…"}`, null for a dropped one.

    Kept beside the answers so that a resumed run neither writes them again nor keeps another one
    of two that are alike. A line torn by a kill is cut off when the file is opened.

    Raises:
        CheckpointError: a line is broken; names it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._texts: dict[int, str | None] = {}
        self._seen: set[bytes] = set()
        self._log = AppendLog(path, self._read)

    def __contains__(self, index: int) -> bool:
        return index in self._texts

    def __getitem__(self, index: int) -> str | None:
        return self._texts[index]

    def add(self, index: int, text: str | None) -> str | None:
        """Notes a prompt; returns it, or None where it is dropped or like one before."""
        if text is not None and _fingerprint(text) in self._seen:
            text = None
        self._keep(index, text)
        self._log.append({"index": index, "prompt": text})
        return text

    def close(self) -> None:
        self._log.close()

    def _keep(self, index: int, text: str | None) -> None:
        self._texts[index] = text
        if text is not None:
            self._seen.add(_fingerprint(text))

    def _read(self, number: int, value: dict[str, Any]) -> None:
        index, text = value.get("index"), value.get("prompt")
        if not isinstance(index, int) or not isinstance(text, str | None):
            raise line_error(self._path, number, "expected index and prompt")
        self._keep(index, text)


def _fingerprint(text: str) -> bytes:
    """Equal for texts that differ in case and spaces only."""
    return blake2b(" ".join(text.casefold().split()).encode(), digest_size=16).digest()
