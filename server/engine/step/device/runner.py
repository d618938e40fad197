"""Runs decoding sequences on the device, a step ahead; `step/host/runner.py` runs all others."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from server.engine.drafters.glide import GlideDrafter
from server.engine.schedule.plan import (
    PlannedSequence,
    SequenceResult,
    StepPlan,
    StepResult,
    StepSeconds,
)
from server.engine.speculation.tiers import StepShape
from server.engine.step.device.capture import Graphs, Running
from server.engine.step.device.packing import Outcome, unpack
from server.engine.step.device.seats import POLICIES, Controls, DeviceSeats, Seat, SeatMap
from server.engine.step.device.sizes import Sizes
from server.engine.step.device.stats import Learned, merged
from server.engine.step.host.speculator import Speculator
from server.engine.step.results import walk_result
from server.engine.step.walk import TreeWalk
from server.engine.types import BlockId, RequestId
from server.kernels.uniform import signed

_MOST_UNDECIDED = 8
"""Once the host had to draw this many tokens of a request, it runs the request alone: a step that
the host has to complete costs both."""


@dataclass(frozen=True, slots=True)
class _Row:
    """A sequence in a launched step."""

    planned: PlannedSequence
    seat: Seat
    controls: Controls
    blocks: list[BlockId]
    """Blocks that it may write to: they must still be the sequence's when its outcome is taken."""


@dataclass(frozen=True, slots=True)
class _Flight:
    """A launched step whose outcome was not read yet."""

    shape: StepShape
    rows: dict[RequestId, _Row]
    """In the step's order."""
    running: Running


@dataclass(slots=True)
class _Sorted:
    """A plan's sequences by how they get their tokens."""

    ready: dict[RequestId, PlannedSequence]
    """Sequences whose step is launched already."""
    on_device: list[PlannedSequence]
    others: list[PlannedSequence]


class Host(Protocol):
    """What the device's runner needs of `step/host/runner.py`."""

    @property
    def speculator(self) -> Speculator | None:
        """The speculator in use. A benchmark may exchange it; then the device's steps, which were
        made with the first one's draft, are not used any more."""
        ...

    def execute(self, plan: StepPlan) -> StepResult: ...

    def forget(self, request_id: RequestId) -> None: ...


class GraphRunner:
    """Executes plans, for the engine's loop.

    Args:
        host: runs all that the device doesn't do alone.
        drafter: the drafter of the host's speculator; None where there is none.
        sizes: chooses the shapes of steps.
        block_size: tokens of a block of the KV pool.
        max_model_len: length of the longest sequence, in tokens.
    """

    def __init__(
        self,
        host: Host,
        drafter: GlideDrafter | None,
        seats: DeviceSeats,
        graphs: Graphs,
        sizes: Sizes,
        learned: Learned,
        block_size: int,
        max_model_len: int,
    ) -> None:
        self.host = host
        self.drafter = drafter
        self.seats = seats
        self.graphs = graphs
        self.sizes = sizes
        self.block_size = block_size
        self.max_model_len = max_model_len
        self.learned = learned
        self.num_dropped = 0
        """Rows that were launched ahead in vain."""
        self._speculator = host.speculator
        self._map = SeatMap(seats.padding_seat)
        self._flight: _Flight | None = None

    def execute(self, plan: StepPlan) -> StepResult:
        """Like `Runner.execute`, but the next step may already run on the device when this
        returns."""
        flight, self._flight = self._flight, None
        parts = self._sort(plan, flight)
        if flight is not None:
            self._drop([row for name, row in flight.rows.items() if name not in parts.ready])
        joining = self._launch(self._fresh_rows(parts.on_device, plan))
        done = list[StepResult]()
        if parts.others:
            done.append(self.host.execute(replace(plan, sequences=tuple(parts.others))))
        self._flight = self._launch_ahead(parts, flight, joining)
        undecided = list[PlannedSequence]()
        for launched in (flight, joining):
            if launched is not None:
                planned = parts.ready if launched is flight else _by_id(parts.on_device)
                result, left = self._outcome(launched, planned)
                done.append(result)
                undecided += left
        if undecided:
            done.append(self.host.execute(replace(plan, sequences=tuple(undecided))))
        return _together(done)

    def forget(self, request_id: RequestId) -> None:
        """The request is over."""
        self._map.leave(request_id)
        self.host.forget(request_id)

    def _sort(self, plan: StepPlan, flight: _Flight | None) -> _Sorted:
        parts = _Sorted({}, [], [])
        for planned in plan.sequences:
            row = flight.rows.get(planned.request_id) if flight is not None else None
            if not self._can_run(planned):
                parts.others.append(planned)
            elif row is not None and _still_holds(row, planned):
                parts.ready[planned.request_id] = planned
            else:
                parts.on_device.append(planned)
        return parts

    def _can_run(self, planned: PlannedSequence) -> bool:
        """Whether a step on the device does all that this sequence asks for."""
        request, params = planned.request, planned.request.params
        num_output = len(planned.token_ids) - len(request.prompt_token_ids)
        seat = self._map.get(request.request_id)
        if seat is not None and seat.num_undecided >= _MOST_UNDECIDED:
            return False
        return (
            self.host.speculator is self._speculator
            and planned.num_nodes == 1
            and num_output >= max(params.min_tokens, 1)
            and request.speculation.policy in POLICIES
            and not params.is_constrained
            and params.logprobs is None
            and not params.has_penalties
            and not params.logit_bias
        )

    def _drop(self, rows: Sequence[_Row]) -> None:
        """Undoes a launched step for these rows."""
        seated = [row.seat for row in rows if self._map.get(row.planned.request_id) is row.seat]
        self.seats.take_back([seat.index for seat in seated])
        for seat in seated:
            seat.context = -1
        self.num_dropped += len(rows)

    def _fresh_rows(self, sequences: Sequence[PlannedSequence], plan: StepPlan) -> list[_Row]:
        """Rows of sequences that start on the device from the state that the host knows."""
        if not sequences:
            return []
        names = {planned.request_id for planned in plan.sequences}
        rows = list[_Row]()
        for planned in sequences:
            seat = self._map.take(planned.request_id, names)
            is_fresh = not _is_seated(seat, planned)
            seat.context, seat.token = planned.num_computed, planned.token_ids[-1]
            rows.append(self._row(planned, seat, planned.num_computed, is_fresh))
        self._place(rows)
        return rows

    def _place(self, rows: Sequence[_Row]) -> None:
        """Writes to the rows' seats what they lack: blocks, and the drafter's hidden states of
        newcomers."""
        self.seats.place_blocks(
            [cell for row in rows for cell in row.seat.new_cells(row.planned.block_ids)]
        )
        fresh = [row for row in rows if row.controls.is_fresh]
        if self.drafter is None or not fresh:
            return
        hidden = self.drafter.hand_over([row.planned for row in fresh])
        known = [(r.seat.index, h) for r, h in zip(fresh, hidden, strict=True) if h is not None]
        self.seats.place_hidden([seat for seat, _ in known], [h for _, h in known])

    def _row(self, planned: PlannedSequence, seat: Seat, context: int, is_fresh: bool) -> _Row:
        """A sequence's row in the next step.

        Args:
            context: most tokens that its context may have when the step begins.
        """
        params, num_known = planned.request.params, len(planned.token_ids)
        num_output = num_known - len(planned.request.prompt_token_ids)
        room = len(planned.block_ids) * self.block_size - context
        depth, nodes = self.sizes.limits(planned)
        controls = Controls(
            seat=seat.index,
            is_live=True,
            is_fresh=is_fresh,
            token=planned.token_ids[-1],
            context=planned.num_computed,
            tokens_left=min(params.max_tokens - num_output, self.max_model_len - num_known),
            max_depth=depth,
            max_nodes=min(nodes, room),
            policy=POLICIES.index(planned.request.speculation.policy),
            seed=signed(params.seed),
            top_k=params.top_k,
            temperature=float(params.temperature),
            top_p=float(params.top_p),
            min_p=float(params.min_p),
        )
        covered = -(-(context + controls.max_nodes) // self.block_size)
        return _Row(planned, seat, controls, list(planned.block_ids[:covered]))

    def _launch(self, rows: list[_Row], longest: int = 0) -> _Flight | None:
        """Launches a step of these rows; None for no rows.

        Args:
            longest: longest context that a row may have; left out, that of the rows' controls.
        """
        if not rows:
            return None
        longest = longest or max(row.controls.context for row in rows)
        shape = self.sizes.shape([(r.planned, r.controls) for r in rows], longest)
        self.graphs.prepare(shape)
        self.learned.tell()
        self.seats.call([row.controls for row in rows], shape.batch)
        by_id = {row.planned.request_id: row for row in rows}
        return _Flight(shape, by_id, self.graphs.launch(shape))

    def _launch_ahead(
        self, parts: _Sorted, flight: _Flight | None, joining: _Flight | None
    ) -> _Flight | None:
        """Launches the next step of the sequences on the device, if they will probably go on."""
        launched = (
            [(flight, row) for name, row in flight.rows.items() if name in parts.ready]
            if (flight is not None)
            else []
        )
        if joining is not None:
            launched += [(joining, row) for row in joining.rows.values()]
        rows, longest = list[_Row](), 0
        for step, row in launched:
            planned = parts.ready.get(row.planned.request_id, row.planned)
            # The launched step may commit this many tokens at most.
            context = planned.num_computed + step.shape.tier.depth + 1
            ahead = self._row(planned, row.seat, context, is_fresh=False)
            if ahead.controls.tokens_left > 1 and ahead.controls.max_nodes >= 1:
                rows.append(ahead)
                longest = max(longest, context)
        self._place(rows)
        return self._launch(rows, longest)

    def _outcome(
        self, flight: _Flight, planned_now: dict[RequestId, PlannedSequence]
    ) -> tuple[StepResult, list[PlannedSequence]]:
        """Waits for a step and reads its outcome.

        Returns:
            (its result, sequences whose next token the host has to draw)

        Raises:
            ValueError: a row has NaN: the model's weights or its precision are broken.
        """
        seconds = flight.running.wait()
        self.sizes.costs.observe(flight.shape.batch, flight.shape.tier, seconds)
        results: dict[RequestId, SequenceResult] = {}
        walks = list[tuple[PlannedSequence, TreeWalk, Outcome]]()
        undecided = list[PlannedSequence]()
        outcomes = unpack(flight.running.packed, flight.shape, len(flight.rows))
        for row, outcome in zip(flight.rows.values(), outcomes, strict=True):
            planned = planned_now.get(row.planned.request_id)
            if planned is None:
                continue
            if outcome.is_nan:
                raise ValueError("the model computed NaN; its weights or its dtype are unusable")
            if not outcome.path:
                row.seat.context = -1
                row.seat.num_undecided += 1
                undecided.append(replace(planned, max_nodes=1, max_depth=0))
                continue
            row.seat.context += len(outcome.path)
            row.seat.token = outcome.token_ids[-1]
            walk = TreeWalk(
                outcome.tree, outcome.path, outcome.token_ids, proposal=outcome.proposal
            )
            walks.append((planned, walk, outcome))
            results[planned.request_id] = walk_result(planned, walk)
        step_seconds = StepSeconds(verify=seconds)
        stats = self.learned.from_step(walks, step_seconds, self.sizes.costs)
        return StepResult(results, step_seconds, stats), undecided


def _by_id(sequences: Sequence[PlannedSequence]) -> dict[RequestId, PlannedSequence]:
    return {planned.request_id: planned for planned in sequences}


def _is_seated(seat: Seat, planned: PlannedSequence) -> bool:
    """Whether the device's state is the sequence's."""
    return seat.context == planned.num_computed and seat.token == planned.token_ids[-1]


def _still_holds(row: _Row, planned: PlannedSequence) -> bool:
    """Whether a launched step is the sequence's next one."""
    return _is_seated(row.seat, planned) and planned.block_ids[: len(row.blocks)] == row.blocks


def _together(results: Sequence[StepResult]) -> StepResult:
    """Merges the results of partial steps that ran one after another."""
    sequences = {name: part for result in results for name, part in result.sequences.items()}
    parts = zip(*(result.seconds for result in results), strict=True)
    seconds = StepSeconds(*map(sum, parts))
    stats = [result.speculation for result in results if result.speculation is not None]
    return StepResult(sequences, seconds, merged(stats))
