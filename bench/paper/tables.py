"""The results as Markdown, the paper's figures beside ours. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.paper import published
from bench.paper.about import About
from bench.paper.figures import SetFigures
from bench.paper.methods import CHAIN_DEPTH, LABELS, MethodName
from bench.paper.published import TARGETS, joined
from bench.paper.resampling import Estimate

MEAN = "mean of the sets"
_PAPER = f"paper ({' / '.join(TARGETS)})"
_NONE = "-"
_NOTES = f"""\
α is accepted / (accepted + first rejections) over the rounds of a chain run; position i counts \
where i - 1 were accepted. c is the time of a draft step over that of a plain step, both of this \
run. Expected speedup is the paper's formula from α and c at γ {CHAIN_DEPTH}. Agreement and \
overlap are taken along the target's own greedy answers, at every position and delay: the share \
of the draft's most probable tokens that are the target's, and Σ min(target_probs, draft_probs) \
at temperature 1. Speedup is wall time against plain decoding of the same prompt in the same run, \
prefill left out. Brackets are 95 % bootstrap intervals over prompts; p is a paired sign-flip test \
of the prompts' log speedups. The paper's figures are of an H800 with other models."""


@dataclass(frozen=True, slots=True)
class Report:
    """All results."""

    about: About
    sets: dict[str, SetFigures]
    mean: SetFigures | None
    """Of several sets."""

    @property
    def rows(self) -> list[tuple[str, SetFigures]]:
        """In the tables' order, the mean last."""
        return [*self.sets.items(), *([(MEAN, self.mean)] if self.mean else [])]


def markdown(report: Report) -> str:
    """The whole report."""
    about = report.about
    versions = ", ".join(f"{name} {version}" for name, version in about.versions.items())
    parts = [
        f"# {about.draft} on {about.target}",
        f"{about.dtype}, greedy, at most {about.new_tokens} new tokens, one stream. "
        f"{about.device if about.device != 'cpu' else about.processor}, {about.num_threads} "
        f"threads, {versions}. {about.started}.\n\n    {about.command}",
        "## Acceptance rate α, relative cost c, expected speedup",
        _table_1(report),
        "## Acceptance by position",
        _positions(report),
        "## Wall-time speedup and tokens per step",
        _table_2(report),
        _comparisons(report),
        _NOTES,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table_1(report: Report) -> str:
    header = ("data set", "draft", "α %", "c %", "expected speedup")
    paper = (f"α %, {_PAPER}", "c %, paper", "expected, paper")
    rows = [
        (
            name,
            LABELS[method],
            _percent(chain.acceptance),
            f"{100 * chain.relative_cost:.1f}",
            _plain(chain.expected_speedup),
            *_published_chain(method, name),
        )
        for name, figures in report.rows
        for method, entry in figures.methods.items()
        if (chain := entry.chain) is not None
    ]
    return _table((*header, *paper), rows)


def _published_chain(method: MethodName, data_set: str) -> tuple[str, str, str]:
    found = published.CHAINS.get(method, {}).get(data_set)
    if found is None:
        return _NONE, _NONE, _NONE
    cost = joined(published.RELATIVE_COST[method], ".1f")
    return joined(found.acceptance, ".1f"), cost, joined(found.expected_speedup, ".2f")


def _positions(report: Report) -> str:
    header = ("data set", "measure", *(str(i + 1) for i in range(CHAIN_DEPTH)), "all")
    rows = list[tuple[str, ...]]()
    for name, figures in report.rows:
        for method, entry in figures.methods.items():
            if entry.chain is not None:
                by_position = entry.chain.acceptance_by_position
                cells = map(_percent, (*by_position, entry.chain.acceptance))
                rows.append((name, f"{LABELS[method]}: accepted %", *cells))
        agreement = map(_percent, (*figures.agreement, figures.agreement_overall))
        rows.append((name, "GliDe: agreement %", *agreement))
        overlap = map(_percent, (*figures.overlap, figures.overlap_overall))
        rows.append((name, "GliDe: overlap %", *overlap))
    return _table(header, rows)


def _table_2(report: Report) -> str:
    header = (
        *("data set", "method", "tokens/step", "speedup", "p", "tokens/s"),
        *("rows/step", "draft ms/step", "verify ms", "other ms", "answers ≠ plain"),
        *(f"speedup, {_PAPER}", "tokens/step, paper's 7B", "draft ms/round, paper's 7B"),
    )
    rows = [
        (
            name,
            LABELS[method],
            _number(entry.tokens_per_step),
            _number(entry.speedup),
            _p_value(entry.p_value),
            f"{entry.tokens_per_second:.1f}",
            f"{entry.nodes_per_step:.1f}",
            *_parts(method, entry.draft_ms, entry.verify_ms, entry.other_ms),
            f"{entry.num_differing} of {figures.num_prompts}",
            joined(published.SPEEDUPS.get(method, {}).get(name, ()), ".2f") or _NONE,
            _plain(published.TOKENS_PER_STEP.get(method, {}).get(name)),
            _plain(published.DRAFT_MS.get(method)) if name == "mt_bench" else _NONE,
        )
        for name, figures in report.rows
        for method, entry in figures.methods.items()
    ]
    return _table(header, rows)


def _parts(method: MethodName, *milliseconds: float) -> Iterable[str]:
    """Plain decoding has one part alone."""
    return (_NONE if method == "plain" else f"{value:.2f}" for value in milliseconds)


def _comparisons(report: Report) -> str:
    rows = [
        (name, _number(found.speedup), _p_value(found.p_value))
        for name, figures in report.rows
        if (found := figures.cape_against_chain) is not None
    ]
    table = _table(("data set", "time of the chain / time of CaPE", "p"), rows)
    return f"## CaPE against the chain\n\n{table}" if rows else ""


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _percent(estimate: Estimate | None) -> str:
    return _interval(estimate, 100, ".1f")


def _number(estimate: Estimate | None) -> str:
    return _interval(estimate, 1, ".2f")


def _interval(estimate: Estimate | None, scale: float, form: str) -> str:
    """`64.8 [63.1, 66.4]`"""
    if estimate is None:
        return _NONE
    value = format(scale * estimate.value, form)
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value} [{scale * estimate.low:{form}}, {scale * estimate.high:{form}}]"


def _plain(value: float | None) -> str:
    return _NONE if value is None else f"{value:.2f}"


def _p_value(value: float | None) -> str:
    if value is None:
        return _NONE
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
