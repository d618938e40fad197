"""Accepted KV to its final slots, on the device. Its twin is `step/host/commit.py`."""

from collections.abc import Sequence

from server.engine.step.device.accept import Walks
from server.engine.step.device.addresses import Addresses
from server.engine.step.device.seats import Rows
from server.kernels.dispatch import kernels_for
from server.kernels.tree import LayerCache


def move_accepted(
    caches: Sequence[LayerCache], rows: Rows, walks: Walks, addresses: Addresses
) -> None:
    """Moves an accepted leaf's KV to the slot of its position. Of a comb's path no other node is
    out of place; where none is, the last node's KV moves to where it is."""
    first, is_kept = rows.contexts[:, None], rows.is_live[:, None]
    source = addresses.slots(rows, first + walks.last[:, None], is_kept)
    target = addresses.slots(rows, first + walks.num_above[:, None], is_kept)
    kernels_for(caches[0].keys).copy_kv(caches, source[:, 0], target[:, 0])
