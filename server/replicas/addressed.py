"""Calls that go to one replica each."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from server.loading.facts import ModelFacts
from server.replicas.attempt import ReplicaLostError
from server.replicas.calls import AddressedCall, Finish
from server.replicas.tasks import Tasks, is_cancelled_itself

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle


class AddressedCalls:
    """Those of one front. All raise ReplicaLostError, whatever it is that fails; and at once where
    the router does not know the replica: a call that waits there would hold up all others.

    Args:
        deployment: Serve's handle of `EngineReplica`.
    """

    def __init__(self, deployment: "DeploymentHandle[Any]", tasks: Tasks) -> None:
        self._tasks = tasks
        self._finish: Any = deployment.finish
        self._facts: Any = deployment.facts
        self._metrics_text: Any = deployment.metrics_text

    async def finish(self, replica: str, what: Finish) -> None:
        """Ends a request from outside."""
        async with self._call(self._finish, replica, what) as response:
            await response

    async def facts(self, replica: str) -> ModelFacts:
        """What a replica says of its model."""
        async with self._call(self._facts, replica) as response:
            return await response

    async def metrics_text(self, replica: str) -> str:
        """A replica's metrics, in Prometheus's text format."""
        async with self._call(self._metrics_text, replica) as response:
            return await response

    @asynccontextmanager
    async def _call(self, method: Any, replica: str, *arguments: object) -> AsyncGenerator[Any]:
        """Makes a call. It is over with the block."""
        unknown = asyncio.Event()
        call = AddressedCall(replica, lambda: self._tasks.soon(unknown.set))
        try:
            response = method.remote(call, *arguments)
            leaving = self._tasks.keep(_cancel_when(unknown, response))
            try:
                yield response
            except asyncio.CancelledError:
                response.cancel()
                raise
            finally:
                leaving.cancel()
        except asyncio.CancelledError:
            if is_cancelled_itself():
                raise
            what = "no requests can be sent to it any more" if unknown.is_set() else "cancelled"
            raise ReplicaLostError(what) from None
        except Exception as error:
            raise ReplicaLostError(type(error).__name__) from error


async def _cancel_when(event: asyncio.Event, response: Any) -> None:
    await event.wait()
    response.cancel()
