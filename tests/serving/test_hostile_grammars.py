"""What one client's grammars do to all others: a live server, one client that attacks, and one that
goes on reading its stream and asks for something structured meanwhile."""

import itertools
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.live import LiveServer, serve

pytestmark = pytest.mark.real_model

ATTACK_SECONDS = 3.0
"""Then the attacker leaves, as attackers do."""
ANNA, BERTA = "key-of-anna", "key-of-berta"
Json = dict[str, Any]


class Reader:
    """Reads streams without end and notes when something comes."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._times = list[float]()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> "Reader":
        self._thread.start()
        while len(self._times) < 20:
            assert self._thread.is_alive(), "the stream ended"
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def longest_gap(self, start: float, end: float) -> float:
        """Without a token, in seconds. The one at the end may go on."""
        inside = [t for t in self._times if start <= t <= end]
        times = [start, *inside, end]
        return max(after - before for before, after in itertools.pairwise(times))

    def _read(self) -> None:
        body = {"prompt": "One, two,", "max_tokens": 4000, "ignore_eos": True, "stream": True}
        with httpx.Client(base_url=self._url, headers=bearer(BERTA), timeout=120) as client:
            while not self._stopped.is_set():
                with client.stream("POST", "/v1/completions", json=body) as response:
                    assert response.status_code == 200
                    for line in response.iter_lines():
                        if line.startswith("data: {"):
                            assert "error" not in json.loads(line.removeprefix("data: ")), line
                            self._times.append(time.monotonic())
                        if self._stopped.is_set():
                            return


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def completion(**fields: object) -> tuple[str, Json]:
    body = {"prompt": "a", "max_tokens": 2000, "ignore_eos": True, "temperature": 0}
    return "/v1/completions", {**body, **fields}


def strict_tool(parameters: Json) -> tuple[str, Json]:
    function = {"name": "f", "strict": True, "parameters": parameters}
    tools = [{"type": "function", "function": function}]
    return "/v1/chat/completions", {
        "messages": [{"role": "user", "content": "a"}], "max_tokens": 20, "tools": tools,
    }  # fmt: skip


def json_schema(schema: Json) -> tuple[str, Json]:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    return completion(response_format=form, max_tokens=40)


def lengths(number: int) -> Json:
    entry = {"type": "string", "minLength": 900, "maxLength": 1000}
    return {"type": "object", "properties": {f"{number}_{i}": entry for i in range(500)}}


ALTERNATIVES = [f"r{i}" for i in range(500)]
ATTACKS: dict[str, list[tuple[str, Json]]] = {
    "no end": [
        completion(grammar='root ::= "x" root'),
        completion(grammar='root ::= "a" | x\nx ::= "a" x'),
        json_schema({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}),
    ],
    "long forced text": [completion(choice=[f"{i}{'ab' * 15_000}"]) for i in range(2)],
    "ambiguous": [
        completion(grammar=f'root ::= {" ".join(["root"] * n)} | "a"') for n in (2, 3, 4)
    ],
    "repetition": [
        completion(regex="((a+)+)+b"),
        completion(regex="(a+a+)+b"),
        completion(regex="(a?){100000}a{100000}"),
        completion(grammar='root ::= (x?){100000} x{100000}\nx ::= "a" | "aa" | "aaa"'),
    ],
    "many ways": [
        completion(grammar='root ::= p q q\np ::= "a"*\nq ::= "a" q | "a"'),
        completion(
            grammar="\n".join(
                [
                    f'root ::= ({" | ".join(ALTERNATIVES)})* "z"',
                    *(f'{name} ::= "a" root' for name in ALTERNATIVES),
                ]
            )
        ),
    ],
    "tools": [
        strict_tool({"oneOf": [{"const": f"constant {i}"} for i in range(850)]}),
        strict_tool({"type": "object", "properties": {f"{i}": {} for i in range(5_000)}}),
    ],
    "long to compile": [json_schema(lengths(i)) for i in range(6)],
}


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with serve("--api-key", ANNA, "--api-key", BERTA) as running:
        yield running


@pytest.fixture(scope="module")
def reader(server: LiveServer) -> Iterator[Reader]:
    with Reader(server.url) as reading:
        yield reading


@pytest.fixture(scope="module")
def undisturbed(reader: Reader) -> float:
    """The longest gap while nobody attacks, but others ask for something structured."""
    start = time.monotonic()
    time.sleep(ATTACK_SECONDS)
    return reader.longest_gap(start, time.monotonic())


def attack(url: str, path: str, body: Json) -> int | None:
    """The status of the answer, None if there is none in time."""
    try:
        client = httpx.Client(base_url=url, headers=bearer(ANNA), timeout=ATTACK_SECONDS)
        with client:
            return client.post(path, json=body).status_code
    except httpx.TimeoutException:
        return None


def ask(url: str, number: int) -> tuple[int, str]:
    """Something structured that nobody has asked yet."""
    body = {"prompt": "a", "max_tokens": 20, "choice": [f"yes {number}", f"no {number}"]}
    answer = httpx.post(f"{url}/v1/completions", json=body, headers=bearer(BERTA), timeout=60)
    return answer.status_code, answer.json()["choices"][0]["text"]


@pytest.mark.parametrize("name", ATTACKS)
def test_others_go_on(name: str, server: LiveServer, reader: Reader, undisturbed: float) -> None:
    number = list(ATTACKS).index(name)
    with ThreadPoolExecutor(16) as threads:
        start = time.monotonic()
        attacks: list[Future[int | None]] = [
            threads.submit(attack, server.url, path, body) for path, body in ATTACKS[name]
        ]
        time.sleep(0.5)
        asked = time.monotonic()
        assert httpx.get(f"{server.url}/health", timeout=60).status_code == 200
        healthy = time.monotonic() - asked
        status, text = ask(server.url, number)
        statuses = [future.result() for future in attacks]
        end = time.monotonic()
    gap = reader.longest_gap(start, end)
    assert {*statuses} <= {200, 400, 429, None}
    assert (status, text.split()[1]) == (200, str(number))
    assert gap < 3 + 5 * undisturbed
    assert healthy < 3 + 5 * undisturbed
