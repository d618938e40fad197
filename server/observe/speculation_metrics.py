"""Prometheus metrics of speculative decoding, the first four under vLLM's names.

How many times faster than plain decoding, by the measured cost curve, over the last five minutes:

    rate(glidecape:spec_decode_plain_seconds_total[5m])
      / rate(glidecape:spec_decode_decode_seconds_total[5m])

Share of proposed tokens that were right, and new tokens for each sequence and step:

    rate(glidecape:spec_decode_num_accepted_tokens_total[5m])
      / rate(glidecape:spec_decode_num_draft_tokens_total[5m])
    1 + rate(glidecape:spec_decode_num_accepted_tokens_total[5m])
      / rate(glidecape:spec_decode_num_drafts_total[5m])
"""

from typing import NamedTuple, get_args

from prometheus_client import Counter

from server.engine.outputs import FinishedRequest, ProposalSource, StepSpeculationStats
from server.engine.types import PolicyName
from server.observe.metric_factory import MetricFactory

_MAX_DEPTH = 16
_DEPTH_BUCKETS = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 12.0, 14.0, 16.0)

_BINS = tuple(f"{tenth / 10:.1f}-{(tenth + 1) / 10:.1f}" for tenth in range(10))
"""Tenths of the draft's confidence: `0.0-0.1` … `0.9-1.0`, each without its upper end but the
last."""


class _PolicyFigures(NamedTuple):
    """Figures of the requests that asked for one policy."""

    requests: Counter
    tokens: Counter
    seconds: Counter
    steps: Counter
    drafted: Counter
    accepted: Counter


def _make_policies(make: MetricFactory) -> dict[PolicyName, _PolicyFigures]:
    policies: tuple[PolicyName, ...] = get_args(PolicyName)
    rows = [(policy,) for policy in policies]
    ended = "of requests that ended, by the policy they asked for"
    texts = {
        "requests": "Requests that ended, by the speculation policy they asked for.",
        "tokens": f"Tokens generated {ended}.",
        "decode_seconds": f"Seconds from the first to the last token {ended}.",
        "steps": f"Decoding steps, from the first that proposed something on, {ended}.",
        "draft_tokens": f"Tokens proposed {ended}.",
        "accepted_tokens": f"Proposed tokens that were emitted {ended}.",
    }
    counters = [
        make.counters(f"spec_decode_policy_{name}", text, ["policy"], rows)
        for name, text in texts.items()
    ]
    figures = (_PolicyFigures(*of_policy) for of_policy in zip(*counters, strict=True))
    return dict(zip(policies, figures, strict=True))


class SpeculationMetrics:
    """What speculation proposed, what came of it, and what it cost."""

    def __init__(self, make: MetricFactory) -> None:
        self._make_counts(make)
        self._make_seconds(make)
        self._of_policy = _make_policies(make)
        self._depth = make.histogram(
            "spec_decode_draft_depth",
            "Tokens on the longest path of a proposal, once for each sequence and step.",
            _DEPTH_BUCKETS,
        )

    def record(self, step: StepSpeculationStats) -> None:
        """Adds one engine step."""
        self._drafts.inc(step.num_drafts)
        self._draft_tokens.inc(step.num_draft_tokens)
        self._accepted.inc(step.num_accepted_tokens)
        self._nodes.inc(step.num_nodes)
        # A deeper proposal than the API allows comes from the configuration; it counts in full in
        # the other metrics.
        for counter, count in zip(self._per_position, step.accepted_per_position, strict=False):
            counter.inc(count)
        for depth in step.depths:
            self._depth.observe(depth)
        for source, figures in step.by_source.items():
            self._proposed_by[source].inc(figures.proposed)
            self._accepted_by[source].inc(figures.accepted)
        self._record_calibration(step.calibration)
        self._draft_seconds.inc(step.draft_seconds)
        self._verify_seconds.inc(step.verify_seconds)
        self._other_seconds.inc(step.other_seconds)
        self._decode_seconds.inc(step.decode_seconds)
        self._plain_seconds.inc(step.plain_seconds)

    def record_finished(self, request: FinishedRequest) -> None:
        """Adds a request that ended to its policy's figures."""
        figures = self._of_policy[request.request.speculation.policy]
        figures.requests.inc()
        figures.tokens.inc(request.num_output_tokens)
        figures.seconds.inc(request.decode_seconds)
        if request.speculation is not None:
            figures.steps.inc(request.speculation.num_steps)
            figures.drafted.inc(request.speculation.num_drafted)
            figures.accepted.inc(request.speculation.num_accepted)

    def _record_calibration(self, calibration: tuple[tuple[float, bool], ...]) -> None:
        # Counted in plain ints first: a step has many nodes, and each `inc` takes a lock.
        counts = [0] * (2 * len(_BINS))
        for confidence, accepted in calibration:
            tenth = min(max(int(confidence * 10), 0), len(_BINS) - 1)
            counts[2 * tenth + accepted] += 1
        for counter, count in zip(self._calibration, counts, strict=True):
            if count:
                counter.inc(count)

    def _make_counts(self, make: MetricFactory) -> None:
        self._drafts = make.counter(
            "spec_decode_num_drafts", "Proposals verified: one for each sequence and step."
        )
        self._draft_tokens = make.counter(
            "spec_decode_num_draft_tokens", "Tokens proposed, all nodes of a tree but its root."
        )
        self._accepted = make.counter(
            "spec_decode_num_accepted_tokens", "Proposed tokens that were emitted."
        )
        self._per_position = make.counters(
            "spec_decode_num_accepted_tokens_per_pos",
            "Proposals that were right at a position; 0 is the first proposed token.",
            ["position"],
            [(str(position),) for position in range(_MAX_DEPTH)],
        )
        sources: tuple[ProposalSource, ...] = get_args(ProposalSource)
        rows = [(source,) for source in sources]
        proposed = make.counters(
            "spec_decode_source_draft_tokens",
            "Tokens proposed, by what they came from: draft, lookup (the request's own text),"
            " recent (a recent answer), grammar, beam.",
            *(["source"], rows),
        )
        accepted = make.counters(
            "spec_decode_source_accepted_tokens",
            "Proposed tokens that were emitted, by what they came from.",
            *(["source"], rows),
        )
        self._proposed_by = dict(zip(sources, proposed, strict=True))
        self._accepted_by = dict(zip(sources, accepted, strict=True))
        self._nodes = make.counter(
            "spec_decode_num_nodes", "Rows that the model computed to verify proposals, with roots."
        )
        self._calibration = make.counters(
            "spec_decode_calibration",
            "Proposed tokens whose parent was accepted, by the draft's confidence in them (bin) and"
            " whether they were right (accepted). Calibrated, the share of true is inside the bin.",
            ["bin", "accepted"],
            [(bin_, accepted) for bin_ in _BINS for accepted in ("false", "true")],
        )

    def _make_seconds(self, make: MetricFactory) -> None:
        self._draft_seconds, self._verify_seconds, self._other_seconds = make.counters(
            "spec_decode_seconds",
            "Seconds of all steps, with proposals or without, by part: draft, verify (the model),"
            " other. Over step_duration_seconds_count they are the mean step's.",
            ["part"],
            [("draft",), ("verify",), ("other",)],
        )
        self._decode_seconds = make.counter(
            "spec_decode_decode_seconds",
            "Seconds spent on steps that only decoded, with proposals or without.",
        )
        self._plain_seconds = make.counter(
            "spec_decode_plain_seconds",
            "Seconds that plain decoding would have taken for the tokens of spec_decode_decode"
            "_seconds, by the measured cost curve. Speedup ="
            " rate(glidecape:spec_decode_plain_seconds_total[5m])"
            " / rate(glidecape:spec_decode_decode_seconds_total[5m])",
        )
