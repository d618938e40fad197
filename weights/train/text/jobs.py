"""Which answers are to be given, in which order: plain data, the same in every run of a seed.

1. every prompt of the user's file once: three of four greedy, the others sampled
2. prompts that the target writes itself, without end (chat models only)
3. where it can't: every prompt of the file the other way
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import count

from weights.train.text.prompts import Prompt
from weights.train.text.store import AnswerKind

_TEMPERATURES = (0.7, 1.0)
"""Range from which sampled answers draw their temperature: what a served model is asked for."""


@dataclass(frozen=True, slots=True)
class FilePrompt:
    """Answer a prompt of the user's file."""

    prompt: Prompt
    other_way: bool
    """Greedy where the seed says sampled, and the other way round."""


@dataclass(frozen=True, slots=True)
class SelfPrompt:
    """Let the target write its prompt number `index`, then answer it."""

    index: int


Job = FilePrompt | SelfPrompt


def jobs(prompts: Iterable[Prompt], *, can_write_itself: bool) -> Iterator[Job]:
    """Yields the answers to be given, in the order that the module describes."""
    prompts = list(prompts)
    for prompt in prompts:
        yield FilePrompt(prompt, other_way=False)
    if can_write_itself:
        yield from (SelfPrompt(index) for index in count())
    for prompt in prompts:
        yield FilePrompt(prompt, other_way=True)


@dataclass(frozen=True, slots=True)
class Draw:
    """Everything random about one answer."""

    temperature: float
    seed: int


def kind_for(seed: int, prompt_ids: tuple[int, ...], *, other_way: bool) -> AnswerKind:
    """Greedy for three quarters of all prompts: that is what drafts are best at and are asked for
    most."""
    greedy = keyed(seed, "kind", prompt_ids) % 4 != 0
    return "greedy" if greedy != other_way else "sampled"


def draw(seed: int, prompt_ids: tuple[int, ...], kind: AnswerKind) -> Draw:
    """Keyed by the prompt, not by its place: whichever of two equal prompts comes first gets the
    same answer, so a resumed run writes what an unbroken one would have written."""
    low, high = _TEMPERATURES
    share = keyed(seed, "temperature", prompt_ids) / 2**63
    temperature = 0.0 if kind == "greedy" else round(low + share * (high - low), 2)
    return Draw(temperature, keyed(seed, "answer", prompt_ids))


def keyed(seed: int, purpose: str, what: object) -> int:
    """63 bits that depend on nothing else."""
    digest = blake2b(f"{seed}|{purpose}|{what}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
