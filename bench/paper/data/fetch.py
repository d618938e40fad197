"""`glidecape data`: the five evaluation sets of the paper, from their public homes.

Three lie in the repository of the paper's authors, Finance-Alpaca in that of Online Speculative
Decoding, whose form of the prompts they took over, MT-bench in FastChat's. Each is fetched at a
fixed commit, and compared with a digest of the prompts behind the tables in docs/performance.md.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import httpx

from server.errors import CheckpointError
from server.report import Report
from weights.files import write_whole

HOME = "https://raw.githubusercontent.com"
_AUTHORS = (
    "NonvolatileMemory/GliDe_with_a_CaPE_ICML_24/8fedc625b8c8d09185d289d81b187e01fbf8fbe5/"
    "inference/cape/raw_data"
)
_OSD = "LiuXiaoxuanPKU/OSD/2252ed88af69470c08cd5a8ccef39ac6bda0bbc4/data"
_FASTCHAT = (
    "lm-sys/FastChat/589532dcfa83700f950b9aa3983416c543afabc0/fastchat/llm_judge/data/mt_bench"
)
_TIMEOUT = httpx.Timeout(30.0)
_MOST_BYTES = 2**24

Line = dict[str, Any]
"""A line as `glidecape eval` reads it: `{"id": …, "messages": […]}`."""
Read = Callable[[str, str], Iterator[Line]]
"""(name of the set, text of its file) -> its prompts."""


@dataclass(frozen=True, slots=True)
class PublicSet:
    """One file somewhere."""

    name: str
    path: str
    """Where the file lies below `HOME`."""
    read: Read
    digest: str
    """`digest_of` the prompts."""


def _conversations(name: str, text: str) -> Iterator[Line]:
    """A JSON list of `{"conversation": [one user turn]}`."""
    for index, entry in enumerate(json.loads(text)):
        (turn,) = entry["conversation"]
        yield _line(f"{name}-{index}", str(turn["content"]))


def _first_turns(name: str, text: str) -> Iterator[Line]:
    """MT-bench's JSON lines with two turns each; the second would need the answer to the first."""
    for line in text.splitlines():
        entry = json.loads(line)
        asked = _line(f"{name}-{entry['question_id']}", str(entry["turns"][0]))
        yield asked | {"category": entry["category"]}


def _line(name: str, prompt: str) -> Line:
    return {"id": name, "messages": [{"role": "user", "content": prompt}]}


SETS = (
    PublicSet(
        "gsm8k", f"{_AUTHORS}/gsm8k_test.json", _conversations, "9ee8805591c0634f9b4b90ebb338b8c5"
    ),
    PublicSet(
        "finance_alpaca",
        f"{_OSD}/gbharti_finance-alpaca_eval.json",
        _conversations,
        "3545bbf92eb53813a164f0db9b7a303b",
    ),
    PublicSet(
        "spider",
        f"{_AUTHORS}/spider_validation.json",
        _conversations,
        "6d4e9e7b3e3c65bb5cadfcc2df908683",
    ),
    PublicSet(
        "code_search_python",
        f"{_AUTHORS}/code_search_net_test.json",
        _conversations,
        "cbf6fc5fed5acfb002d485daba27f098",
    ),
    PublicSet(
        "mt_bench",
        f"{_FASTCHAT}/question.jsonl",
        _first_turns,
        "e0e0944b0bec29faf437c9986f4b155c",
    ),
)


def fetch_sets(folder: Path, home: str, report: Report, sets: Sequence[PublicSet] = SETS) -> None:
    """Writes NAME.jsonl of each set into the folder; what is there already is left as it is.

    Args:
        home: the address below which the files' paths lie.

    Raises:
        CheckpointError: a file can't be fetched or written, or has changed.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(folder, f"can't be made: {error.strerror}") from None
    with httpx.Client(timeout=_TIMEOUT, follow_redirects=True) as client:
        for public in sets:
            path = folder / f"{public.name}.jsonl"
            if path.exists():
                report(f"{path}: is there")
                continue
            lines = _fetch(client, f"{home.rstrip('/')}/{public.path}", public)
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            write_whole(path, text)
            report(f"{path}: {len(lines)} prompts")


def digest_of(lines: Sequence[Line]) -> str:
    """Digest of the prompts alone, in their order."""
    prompts = [line["messages"][0]["content"] for line in lines]
    return blake2b(json.dumps(prompts).encode(), digest_size=16).hexdigest()


def _fetch(client: httpx.Client, url: str, public: PublicSet) -> list[Line]:
    try:
        text = _download(client, url)
        lines = list(public.read(public.name, text))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise CheckpointError(url, f"can't be fetched: {error}") from None
    except (ValueError, LookupError, TypeError, RecursionError):
        raise CheckpointError(url, "is no set of prompts") from None
    if digest_of(lines) != public.digest:
        raise CheckpointError(url, "has other prompts than README's tables were measured with")
    return lines


def _download(client: httpx.Client, url: str) -> str:
    with client.stream("GET", url) as response:
        response.raise_for_status()
        body = b""
        for piece in response.iter_bytes():
            body += piece
            if len(body) > _MOST_BYTES:
                raise ValueError("far more than any of the sets has")
    return body.decode()
