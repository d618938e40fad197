"""An app around a scripted engine, asked in process or over a real socket."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import cache, partial
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from server.api.app import create_app
from server.api.deps import Engine, Parts, ServingInfo
from server.api.http.connection import http_options
from server.api.http.limits import ConnectionLimits, connection_limits
from server.api.middleware.stack import MiddlewareConfig, middleware_config
from server.config import ServerSettings
from server.engine.grammar.compile.compiler import Vocabulary
from server.engine.grammar.compile.service import GrammarCompiler
from server.observe.metrics import Metrics
from server.text.chat_template import ChatTemplate
from server.text.infill import find_infill
from server.text.tokenizer import Tokenizer
from tests.api import openai_schema, openai_types
from tests.doubles import EOS_ID, PlainTemplate, ScriptedEngine, byte_tokenizer, one_by_one
from tests.engine.grammar.in_process import in_process as compiled_here

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
MODEL = "tiny/model"
Json = dict[str, Any]

INFO = ServingInfo(
    model_name=MODEL,
    created=1_700_000_000,
    version="1.2.3",
    vocab_size=EOS_ID + 1,
    system_fingerprint="fp_0123456789",
    sse_ping_seconds=0.05,
)

MIDDLEWARE = middleware_config(ServerSettings.model_construct())
"""That of the default settings, whatever the environment says."""

CONNECTION_LIMITS = connection_limits(ServerSettings.model_construct(), open_files=1024)
"""Likewise."""


def make_app(
    engine: Engine,
    tokenizer: Tokenizer | None = None,
    *,
    chat_template: ChatTemplate | None = None,
    info: ServingInfo = INFO,
    middleware: MiddlewareConfig = MIDDLEWARE,
) -> FastAPI:
    tokenizer = tokenizer or byte_tokenizer()
    template = chat_template or PlainTemplate()
    metrics = Metrics(info.model_name)
    grammars, infill = byte_grammars(), find_infill(tokenizer, info.vocab_size)
    return create_app(
        Parts(engine, tokenizer, template, metrics, info, grammars, infill), middleware
    )


@cache
def byte_grammars() -> GrammarCompiler:
    """One for all apps: with its first grammar it imports xgrammar."""
    tokenizer = byte_tokenizer()
    encode = partial(tokenizer.encode, add_special_tokens=False)
    special = tokenizer.special_ids
    vocabulary = Vocabulary(EOS_ID + 1, tokenizer.token_bytes, special, frozenset({EOS_ID}), encode)
    return compiled_here(vocabulary)


def chat_body(**fields: object) -> Json:
    return {"messages": [{"role": "user", "content": "hi"}], **fields}


def in_process(app: FastAPI) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


async def post(engine: Engine, path: str, body: object) -> httpx.Response:
    """One request to a fresh app; a good answer must be one in OpenAI's own eyes too. The body may
    hold NaN, which httpx itself refuses to send."""
    async with in_process(make_app(engine)) as client:
        response = await client.post(
            path, content=json.dumps(body), headers={"content-type": "application/json"}
        )
    if path.startswith("/v1/") and response.headers["content-type"] == "application/json":
        if response.is_success:
            openai_types.parse(response.json())
    return response


async def refused(path: str, field: str, value: object) -> httpx.Response:
    """The answer to a good request with one bad field, which must not reach the engine."""
    engine = ScriptedEngine(one_by_one("a"))
    base = chat_body() if path == CHAT else {"prompt": "hi"}
    response = await post(engine, path, {**base, field: value})
    assert engine.requests == []
    return response


@asynccontextmanager
async def live_server(engine: Engine, info: ServingInfo = INFO) -> AsyncGenerator[str]:
    """A uvicorn around a scripted engine → its base URL."""
    async with live_app(make_app(engine, info=info)) as url:
        yield url


@asynccontextmanager
async def live_app(
    app: FastAPI, limits: ConnectionLimits = CONNECTION_LIMITS
) -> AsyncGenerator[str]:
    """A uvicorn on a free loopback port → its base URL."""
    options = http_options(limits)
    config = uvicorn.Config(app, port=0, log_level="error", lifespan="off", **options)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await task


def events(text: str) -> list[Json | str]:
    """The data of each event in a stream: JSON, or the text `[DONE]`. Comments are left out."""
    assert text.endswith("\n\n")
    found: list[Json | str] = []
    for block in text.split("\n\n"):
        if block.startswith("data: "):
            data = block.removeprefix("data: ")
            found.append(data if data == "[DONE]" else json.loads(data))
    return found


def chunks(text: str) -> list[Json]:
    """Events of a complete stream, without the final `[DONE]`."""
    *found, done = events(text)
    assert done == "[DONE]"
    documents = [chunk for chunk in found if isinstance(chunk, dict)]
    for document in documents:
        openai_types.parse(document)
    return documents


def assert_error(
    response: httpx.Response, status: int, code: str, param: str | None = None
) -> Json:
    """OpenAI's error shape, to the letter → the error."""
    assert response.status_code == status, response.text
    body: Json = response.json()
    assert set(body) == {"error"}
    error: Json = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["code"], error["param"]) == (code, param), error
    types = {429: "requests", 500: "server_error", 503: "server_error"}
    assert error["type"] == types.get(status, "invalid_request_error")
    assert error["message"]
    openai_schema.check("ErrorResponse", body)
    return error
