"""docs/api.md says what the code does: endpoints, fields, errors, defaults; its examples run."""

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, get_args

import httpx
import pytest
from openai.types import completion_create_params as openai_completion
from openai.types.chat import completion_create_params as openai_chat

from server.api.chat.schema import ChatRequest
from server.api.completions.schema import CompletionRequest
from server.api.middleware.admission import AdmissionLimits
from server.api.middleware.api_keys import ApiKeys
from server.api.middleware.auth import OPEN_PATHS
from server.api.service.tokenize import DetokenizeRequest, TokenizeRequest
from server.config import DEFAULT_MODEL, ServerSettings
from server.errors import ErrorCode
from server.setting_types import parse_bytes
from tests.api.harness import (
    CHAT,
    COMPLETIONS,
    INFO,
    MIDDLEWARE,
    chat_body,
    in_process,
    live_app,
    make_app,
)
from tests.api.openapi.documented import DOCS, fields, is_advisory, is_refused, table
from tests.doubles import ScriptedEngine, one_by_one


async def test_endpoints() -> None:
    async with in_process(make_app(ScriptedEngine([]))) as client:
        document = (await client.get("/openapi.json")).json()
    served = {
        (method.upper(), re.sub(r":\w+}", "}", path))
        for path, operations in document["paths"].items()
        for method in operations
    }
    written: set[tuple[str, str]] = set()
    for method, paths, _, needs_key in table("Endpoints"):
        for path in paths.split(", "):
            written.add((method, path))
            assert (needs_key == "no") == (path in OPEN_PATHS), path
    assert written - {("GET", path) for path in ("/", "/openapi.json", "/docs")} == served


FIELDS = [*fields("chat", ChatRequest), *fields("completions", CompletionRequest)]


def documented() -> dict[tuple[str, str], str]:
    """(endpoint, path) → status."""
    found: dict[tuple[str, str], str] = {}
    for path, where, status, _ in table("Request fields"):
        for endpoint in ("chat", "completions") if where == "both" else (where,):
            assert (endpoint, path) not in found, "twice"
            found[endpoint, path] = status
    return found


def test_every_field_is_documented_and_no_other() -> None:
    assert documented().keys() == {(field.endpoint, field.path) for field in FIELDS}


def test_fields_of_tokenizing() -> None:
    documented: set[tuple[str, str]] = set()
    for name, where, _ in table("Tokenizing"):
        for endpoint in ("tokenize", "detokenize") if where == "both" else (where,):
            documented.add((endpoint, name))
    assert documented == {
        *(("tokenize", name) for name in TokenizeRequest.model_fields),
        *(("detokenize", name) for name in DetokenizeRequest.model_fields),
    }


def openai_fields(endpoint: str) -> set[str]:
    if endpoint == "chat":
        return {
            *openai_chat.CompletionCreateParamsBase.__annotations__,
            *openai_chat.CompletionCreateParamsStreaming.__annotations__,
        }
    return {
        *openai_completion.CompletionCreateParamsBase.__annotations__,
        *openai_completion.CompletionCreateParamsStreaming.__annotations__,
    }


NOT_OPENAIS = ("stream_options.continuous_usage_stats",)
"""Extensions inside of OpenAI's objects."""


def test_the_status_of_every_field() -> None:
    statuses = documented()
    for field in FIELDS:
        root = field.path.split(".")[0]
        is_openais = root in openai_fields(field.endpoint) and field.path not in NOT_OPENAIS
        expected = "supported" if is_openais else "extension"
        if is_refused(field.info):
            expected = "refused"
        if is_advisory(field.info):
            expected = "advisory"
        assert statuses[field.endpoint, field.path] == expected, field.path


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
def test_all_of_openais_fields_are_known(endpoint: str) -> None:
    """A new one of the installed SDK must be implemented, or refused by name in any mode."""
    assert openai_fields(endpoint) <= {f.path for f in FIELDS if f.endpoint == endpoint}


def test_defaults_of_the_limits() -> None:
    for flag, default, _ in table("Limits"):
        value = ServerSettings.model_fields[flag.removeprefix("--").replace("-", "_")].default
        assert value == (None if default == "none" else parse_bytes(default)), flag


# One case for each row of the error table, by status and code.

Case = Callable[[], Awaitable[httpx.Response]]


def posting(body: object, path: str = CHAT, **app: Any) -> Case:
    async def ask() -> httpx.Response:
        engine = ScriptedEngine(one_by_one("a"), max_model_len=64)
        async with in_process(make_app(engine, **app)) as client:
            return await client.post(path, json=body)

    return ask


def getting(path: str, *, is_dead: bool = False) -> Case:
    async def ask() -> httpx.Response:
        engine = ScriptedEngine([])
        engine.is_dead = is_dead
        async with in_process(make_app(engine)) as client:
            return await client.get(path)

    return ask


async def no_json() -> httpx.Response:
    async with in_process(make_app(ScriptedEngine([]))) as client:
        headers = {"content-type": "application/json"}
        return await client.post(CHAT, content="{", headers=headers)


async def compressed() -> httpx.Response:
    async with in_process(make_app(ScriptedEngine([]))) as client:
        headers = {"content-type": "application/json", "content-encoding": "gzip"}
        return await client.post(CHAT, content="{}", headers=headers)


async def too_many() -> httpx.Response:
    engine = ScriptedEngine(one_by_one("a"), hang_after=0)
    app = make_app(engine, middleware=replace(MIDDLEWARE, limits=AdmissionLimits(1, 0)))
    async with in_process(app) as client, asyncio.TaskGroup() as group:
        group.create_task(client.post(CHAT, json=chat_body()))
        await engine.hangs.wait()
        response = await client.post(CHAT, json=chat_body())
        engine.let_go.set()
    return response


async def dying() -> httpx.Response:
    app = make_app(ScriptedEngine(one_by_one("a"), die_after=0))
    async with in_process(app) as client:
        return await client.post(CHAT, json=chat_body())


async def draining() -> httpx.Response:
    app = make_app(ScriptedEngine([]))
    app.state.lifecycle.drain()
    async with in_process(app) as client:
        return await client.post(CHAT, json=chat_body())


CASES: dict[tuple[int, str], Case] = {
    (400, "invalid_json"): no_json,
    (400, "invalid_value"): posting(chat_body(top_p=5)),
    (400, "unknown_field"): posting(chat_body(temprature=1)),
    (400, "unsupported_field"): posting(chat_body(audio={"voice": "x"})),
    (400, "context_length_exceeded"): posting({"prompt": "x" * 99}, COMPLETIONS),
    (400, "previous_response_not_found"): posting(
        {"input": "a", "previous_response_id": "resp_1"}, "/v1/responses"
    ),
    (401, "invalid_api_key"): posting(
        chat_body(), middleware=replace(MIDDLEWARE, api_keys=ApiKeys(["k"]))
    ),
    (404, "model_not_found"): posting(chat_body(model="gpt-4")),
    (404, "not_found"): getting("/v2"),
    (405, "method_not_allowed"): getting(CHAT),
    (413, "request_too_large"): posting(
        chat_body(), middleware=replace(MIDDLEWARE, max_body_size=9)
    ),
    (415, "unsupported_media_type"): compressed,
    (429, "rate_limit_exceeded"): too_many,
    (500, "internal_error"): dying,
    (503, "internal_error"): getting("/health", is_dead=True),
    (503, "shutting_down"): draining,
}

ERROR_ROWS = [(int(status), kind, code) for status, kind, code, _ in table("Errors")]


def test_the_error_table_has_every_code_and_no_other() -> None:
    assert {(status, code) for status, _, code in ERROR_ROWS} == CASES.keys()
    assert {code for _, _, code in ERROR_ROWS} == set(get_args(ErrorCode))


@pytest.mark.parametrize(("status", "kind", "code"), ERROR_ROWS)
async def test_error_row(status: int, kind: str, code: str) -> None:
    response = await CASES[status, code]()
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["code"]) == (status, kind, code)
    headers = {401: "www-authenticate", 405: "allow", 429: "retry-after"}
    if status in headers:
        assert response.headers[headers[status]]
    assert response.headers["x-request-id"]


async def test_the_error_that_is_shown() -> None:
    shown = re.search(r"```json\n(.*?)```", DOCS, re.DOTALL)
    assert shown is not None
    response = await posting(chat_body(top_p=5))()
    assert response.json() == httpx.Response(200, text=shown[1]).json()


# Examples.

EXAMPLES = re.findall(r"```bash\n(.*?)```", DOCS, re.DOTALL)


@asynccontextmanager
async def scripted_server() -> AsyncGenerator[str]:
    """As `make serve`, with a vocabulary that has the examples' token ids."""
    info = replace(INFO, model_name=DEFAULT_MODEL, vocab_size=49152)
    # Whose tokens are bytes: more of them than the real one makes of the examples' tools.
    engine = ScriptedEngine(one_by_one("Paris"), max_model_len=8192)
    async with live_app(make_app(engine, info=info)) as url:
        yield url


def test_there_are_examples() -> None:
    assert len(EXAMPLES) > 5


@pytest.mark.parametrize("example", EXAMPLES)
async def test_an_example_can_be_pasted(example: str) -> None:
    async with scripted_server() as url:
        command = example.replace("http://localhost:8000", url)
        command = command.replace("curl ", "curl --silent --show-error --fail-with-body ")
        process = await asyncio.create_subprocess_exec(
            *("bash", "-e", "-c", command),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert url in command
    assert process.returncode == 0, output.decode()
    assert output
