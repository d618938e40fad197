"""The composition root: settings in, the app around an engine out. It alone knows both."""

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from fastapi import FastAPI

from server import __version__
from server.api.app import create_app
from server.api.deps import Engine, Parts, ServingInfo
from server.api.middleware.stack import MiddlewareConfig, middleware_config
from server.api.responses.store import ResponseStore, StoreLimits
from server.config import ServerSettings
from server.engine.grammar.compile.service import GrammarCompiler
from server.engine.outputs import FinishedRequest, StepStats
from server.errors import ConfigError
from server.loading.facts import ModelFacts
from server.loading.model import LoadedModel, build_model
from server.observe.front_metrics import FrontMetrics
from server.observe.observers import Observers
from server.report import Report
from server.setting_types import PolicyName
from server.text.chat_template import ChatTemplate
from server.text.infill import find_infill
from server.text.thinking import formats as thinking_formats
from server.text.tokenizer import Tokenizer
from server.text.tools.formats import FORMATS
from weights.model_names import model_name

if TYPE_CHECKING:
    from server.replicas.start import Replicas


class Runs(Protocol):
    """What is asked of an engine when the server has ended."""

    @property
    def is_running(self) -> bool:
        """Whether it has threads under which Python can't be taken down."""
        ...


_STOP_SECONDS = 3.0
"""How long a server that ends waits for the step it is in."""


class Served(NamedTuple):
    """What `glidecape serve` runs."""

    app: FastAPI
    engine: Runs
    name: str
    """Of the model, as its answers and metrics have it."""
    policy: PolicyName
    """Of speculation, for requests that name none."""


def build(settings: ServerSettings, report: Report) -> Served:
    """Loads a model, here or into replicas, and builds the HTTP app around it.

    Raises:
        StartupError: whatever is wrong with settings, checkpoint or cluster.
    """
    if settings.is_replicated:
        return build_replicated(settings, report)
    if settings.num_gpus_per_replica is not None:
        reason = "counts only with replicas; one engine takes tensor_parallel_size"
        raise ConfigError("num_gpus_per_replica", settings.num_gpus_per_replica, reason)
    app, model = build_app(settings, report)
    return Served(app, model.engine, served_name(settings), model.facts.speculation.policy)


def build_app(settings: ServerSettings, report: Report) -> tuple[FastAPI, LoadedModel]:
    """Loads a model and builds the HTTP app around it; the app's lifespan starts and stops the
    engine.

    Raises:
        StartupError: as `build_model`.
    """
    middleware = middleware_config(settings)  # before the seconds that loading takes
    observers = Observers(settings, served_name(settings))
    model = build_model(settings, report, observers.record, settings.step_timeout)
    observers.start_log(settings, model.tokenizer)
    observers.describe_cache(model.limits.block_size, model.limits.num_blocks)
    parts = _parts(
        settings,
        facts=model.facts,
        engine=model.engine,
        tokenizer=model.tokenizer,
        chat_template=model.chat_template,
        grammars=model.grammars,
        metrics=observers.metrics,
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        model.engine.start()
        yield
        if await model.engine.stop(_STOP_SECONDS):
            model.close()
        elif model.workers is not None:
            model.workers.kill()  # a worker waits for the step that hangs
        await asyncio.to_thread(observers.close)

    return create_app(parts, middleware, lifespan), model


def build_replicated(settings: ServerSettings, report: Report) -> Served:
    """Starts replicas and builds the HTTP app around them; the app's lifespan ends them.

    Raises:
        StartupError: as `start_replicas`.
    """
    from server.replicas.start import start_replicas  # needs Ray

    middleware = middleware_config(settings)
    observers = Observers(settings, served_name(settings), counts_steps=False)
    tell = partial(tell_ended, observers)
    replicas = start_replicas(settings, served_name(settings), tell, report)
    app = replicated_app(settings, middleware, observers, replicas)
    facts = replicas.facts
    return Served(app, replicas.engine, served_name(settings), facts.speculation.policy)


def replicated_app(
    settings: ServerSettings,
    middleware: MiddlewareConfig,
    observers: Observers,
    replicas: "Replicas",
) -> FastAPI:
    """The HTTP app around replicas that serve; its lifespan ends them."""
    from server.replicas.scrape import Scrape

    engine, text = replicas.engine, replicas.text
    observers.start_log(settings, text.tokenizer)
    parts = _parts(
        settings,
        facts=replicas.facts,
        engine=engine,
        tokenizer=text.tokenizer,
        chat_template=text.chat_template,
        grammars=replicas.grammars,
        metrics=observers.metrics,
        all_metrics=Scrape(observers.metrics, engine),
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        engine.start()
        yield
        await asyncio.to_thread(replicas.close)
        await asyncio.to_thread(observers.close)

    return create_app(parts, middleware, lifespan)


def tell_ended(observers: Observers, finished: tuple[FinishedRequest, ...]) -> None:
    """Logs and traces what ended in replicas."""
    observers.record(StepStats.of_ended(finished))


def served_name(settings: ServerSettings) -> str:
    """The name that answers and metrics have."""
    return (settings.served_model_name or (model_name(settings.model),))[0]


def _parts(
    settings: ServerSettings,
    *,
    facts: ModelFacts,
    engine: Engine,
    tokenizer: Tokenizer,
    chat_template: ChatTemplate,
    grammars: GrammarCompiler,
    metrics: FrontMetrics,
    all_metrics: Callable[[], Awaitable[bytes]] | None = None,
) -> Parts:
    """What the API works with."""
    metrics.describe_server(_described(facts))
    _set_formats(chat_template, settings)
    kept = StoreLimits(
        max_responses=settings.max_stored_responses,
        max_bytes=settings.stored_responses_memory,
        seconds_to_live=3600 * settings.stored_responses_hours,
    )
    return Parts(
        engine,
        tokenizer,
        chat_template,
        metrics,
        _info(settings, facts),
        grammars,
        find_infill(tokenizer, facts.vocab_size),
        response_store=ResponseStore(kept),
        all_metrics=all_metrics,
    )


def _info(settings: ServerSettings, facts: ModelFacts) -> ServingInfo:
    own_name = model_name(settings.model)
    return ServingInfo(
        model_name=served_name(settings),
        other_names=settings.served_model_name[1:],
        unlisted_names=frozenset((own_name, "default") if settings.model_aliases else ()),
        vocab_size=facts.vocab_size,
        created=int(time.time()),
        version=__version__,
        system_fingerprint=_fingerprint(facts),
        default_sampling=facts.default_sampling,
        sse_ping_seconds=settings.sse_ping_seconds,
        drops_other_tools=settings.other_tools == "drop",
        salts_by_key=settings.prefix_caching != "shared",
        cache_block=0 if settings.prefix_caching == "off" else settings.block_size,
        can_speculate=facts.can_speculate,
        default_speculation=facts.speculation,
    )


def _set_formats(template: ChatTemplate, settings: ServerSettings) -> None:
    """Has the chat template follow the settings where they don't leave it to find out itself."""
    if settings.tool_parser != "auto":
        template.tool_format = FORMATS[settings.tool_parser]
    form = settings.reasoning_format
    if form != "auto":
        template.thinking_format = None if form == "none" else thinking_formats.FORMATS[form]


def _described(facts: ModelFacts) -> dict[str, str]:
    """Facts about the server, for the status page and for dashboards."""
    return {
        "version": __version__,
        "draft": facts.draft,
        "policy": facts.speculation.policy,
        "precision": facts.precision,
        "kernels": facts.kernels,
    }


def _fingerprint(facts: ModelFacts) -> str:
    """Changes when the same seed might give other tokens: weights, precision, device, version."""
    what = f"{__version__}|{torch.__version__}|{facts.identity}"
    return "fp_" + hashlib.blake2b(what.encode(), digest_size=6).hexdigest()
