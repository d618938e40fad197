"""Serve's router of requests, in a front's process: it asks the routing table.

Serve carries this module's source to where it routes; so whatever has state is in other modules.
"""

import weakref
from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from server.replicas.calls import AddressedCall, RunCall
from server.replicas.routing.directory import directory
from server.replicas.routing.table import Published, RoutingTable


class PrefixRouter(RequestRouter):
    """Sends addressed calls where they belong, and requests to the replica that has most of their
    prompt in its prefix cache.

    Not with Serve's `FIFOMixin`: it gives the replica that was chosen for one request to another
    one that has waited longer.
    """

    def initialize_state(self, **kwargs: Any) -> None:
        """Takes the arguments of `RoutingTable`, which Serve passes on."""
        self._table = RoutingTable(**kwargs)
        self._calls: dict[str, weakref.ref[RunCall]] = {}
        """Calls by Serve's id, from their choice to their end."""

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        if pending_request is None:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True
        call: Any = pending_request.args[0] if pending_request.args else None
        by_name = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        if isinstance(call, AddressedCall):
            found = by_name.get(call.replica)
            if found is None and call.on_unknown is not None:
                call.on_unknown()
            return [] if found is None else [[found]]
        if not isinstance(call, RunCall):
            return [candidate_replicas]
        for name, replica in by_name.items():
            stats = replica.routing_stats
            if stats:
                self._table.publish(name, Published(**stats))
        self._close_ended()
        blocks = call.blocks()
        name = self._table.choose(list(by_name), blocks, call.front.name, call.avoid)
        call_id = pending_request.metadata.internal_request_id
        self._table.opened(call_id, name, blocks)
        self._calls[call_id] = weakref.ref(call)
        return [[by_name[name]]]

    def on_request_routed(
        self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any
    ) -> None:
        call: Any = pending_request.args[0] if pending_request.args else None
        if isinstance(call, RunCall) and call.on_routed is not None:
            call.on_routed(replica_id.unique_id)

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        # Of a replica that has refused the call, Serve may tell when another one has it.
        if self._table.replica_of(internal_request_id) == replica_id.unique_id:
            self._close(internal_request_id)

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        super().update_replicas(replicas)
        self._tell()

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        super().on_replica_actor_died(replica_id)
        self._tell()

    def _tell(self) -> None:
        names = tuple(replica_id.unique_id for replica_id in self.curr_replicas)
        self._table.set_replicas(names)
        directory(self.app_name).set_names(names)

    def _close_ended(self) -> None:
        """Serve does not tell of calls that are cancelled before they are sent; and of answered
        ones perhaps after the client's next request."""
        for call_id, found in list(self._calls.items()):
            call = found()
            if call is None or call.is_given_up or call.is_answered:
                self._close(call_id)

    def _close(self, call_id: str) -> None:
        """Counts a call no more."""
        found = self._calls.pop(call_id, None)
        call = found and found()
        replica = self._table.closed(call_id)
        if call is not None and replica is not None and not call.is_given_up:
            self._table.keeps(replica, call.blocks())  # its answer is in the cache too
