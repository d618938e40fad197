"""The composition root: settings in, the app around an engine out. It alone knows both."""

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import torch
from fastapi import FastAPI

from server import __version__
from server.api.app import create_app
from server.api.deps import Parts, ServingInfo
from server.api.door.front_door import front_door
from server.api.responses.store import ResponseStore, StoreLimits
from server.config import ServerSettings
from server.loading.model import LoadedModel, build_model
from server.observe.observers import Observers
from server.report import Report
from server.text.chat_template import ChatTemplate
from server.text.infill import find_infill
from server.text.thinking import formats as thinking_formats
from server.text.tools.formats import FORMATS
from weights.model_names import model_name

_STOP_SECONDS = 3.0
"""How long a server that ends waits for the step it is in."""


def build_app(settings: ServerSettings, report: Report) -> tuple[FastAPI, LoadedModel]:
    """Loads a model and builds the HTTP app around it; the app's lifespan starts and stops the
    engine.

    Raises:
        StartupError: as `build_model`.
    """
    door = front_door(settings)  # before the seconds that loading takes
    own_name = model_name(settings.model)
    names = settings.served_model_name or (own_name,)
    name = names[0]
    observers = Observers(settings, name)
    model = build_model(settings, report, observers.record, settings.step_timeout)
    observers.start_log(settings, model.tokenizer)
    info = ServingInfo(
        model_name=name,
        other_names=names[1:],
        unlisted_names=frozenset((own_name, "default") if settings.model_aliases else ()),
        vocab_size=model.vocab_size,
        created=int(time.time()),
        version=__version__,
        system_fingerprint=_fingerprint(model),
        default_sampling=model.default_sampling,
        sse_ping_seconds=settings.sse_ping_seconds,
        drops_other_tools=settings.other_tools == "drop",
        salts_by_key=settings.prefix_caching != "shared",
        cache_block=0 if settings.prefix_caching == "off" else settings.block_size,
        can_speculate=model.speculator is not None,
        default_speculation=model.speculation,
    )
    observers.metrics.describe_server(_facts(model))
    observers.metrics.describe_cache(model.limits.block_size, model.limits.num_blocks)
    _set_formats(model.chat_template, settings)
    kept = StoreLimits(
        max_responses=settings.max_stored_responses,
        max_bytes=settings.stored_responses_memory,
        seconds_to_live=3600 * settings.stored_responses_hours,
    )
    parts = Parts(
        model.engine,
        model.tokenizer,
        model.chat_template,
        observers.metrics,
        info,
        model.grammars,
        find_infill(model.tokenizer, model.vocab_size),
        response_store=ResponseStore(kept),
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

    return create_app(parts, door, lifespan), model


def _set_formats(template: ChatTemplate, settings: ServerSettings) -> None:
    """Has the chat template follow the settings where they don't leave it to find out itself."""
    if settings.tool_parser != "auto":
        template.tool_format = FORMATS[settings.tool_parser]
    form = settings.reasoning_format
    if form != "auto":
        template.thinking_format = None if form == "none" else thinking_formats.FORMATS[form]


def _facts(model: LoadedModel) -> dict[str, str]:
    """Facts about the server, for the status page and for dashboards."""
    return {
        "version": __version__,
        "draft": model.draft,
        "policy": model.speculation.policy,
        "precision": model.precision,
        "kernels": model.kernels,
    }


def _fingerprint(model: LoadedModel) -> str:
    """Changes when the same seed might give other tokens: weights, precision, device, version."""
    what = f"{__version__}|{torch.__version__}|{model.identity}"
    return "fp_" + hashlib.blake2b(what.encode(), digest_size=6).hexdigest()
