"""The results as Markdown, the paper's figures beside ours. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.paper.data.contamination import Contamination
from bench.paper.measure.about import About
from bench.paper.measure.methods import CHAIN_DEPTH, LABELS, MethodName
from bench.paper.report import published
from bench.paper.report.cells import NONE, cell, number, p_value, percent, table
from bench.paper.report.figures import SetFigures
from bench.paper.report.published import TARGETS, joined
from bench.paper.report.summary import mean_of, summary

MEAN = "mean of the sets"
_PAPER = f"paper ({' / '.join(TARGETS)})"
_NOTES = f"""\
α is accepted / (accepted + first rejections) over the rounds of a chain run; position i counts \
where i - 1 were accepted. c is the time of a draft step over that of a plain step, both of this \
run. Expected speedup is the paper's formula from α and c at γ {CHAIN_DEPTH}. Agreement and \
overlap are taken along the target's own greedy answers, at every position and delay: the share \
of the draft's most probable tokens that are the target's, and Σ min(target_probs, draft_probs) \
at temperature 1. Prompts that are left out had an answer of one token, which takes no decoding \
step. Speedup is wall time against plain decoding of the same prompt in the same run, \
prefill left out. Brackets are 95 % bootstrap intervals over prompts; p is a paired sign-flip test \
of the prompts' log speedups. Over several sets each counts alike, in the test \
too. The paper's figures are of an H800 with other models."""


@dataclass(frozen=True, slots=True)
class DataCounts:
    """Prompts of one file."""

    num_in_file: int
    num_chosen: int
    """All prompts, or `--limit` of them, evenly spread."""
    num_measured: int
    """How many of the chosen ones are measured so far."""
    num_left_out: int
    """How many measured prompts have no figures: an answer of one token takes no decoding step."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything that was measured, as the tables show it."""

    about: About
    data: dict[str, DataCounts]
    contamination: Contamination | None
    """None where no training text was given."""
    sets: dict[str, SetFigures]
    mean: SetFigures | None
    """The mean over the sets; None for a single one."""

    @property
    def rows(self) -> list[tuple[str, SetFigures]]:
        """Name and figures of each row, in the tables' order: the mean comes last."""
        return [*self.sets.items(), *([(MEAN, self.mean)] if self.mean else [])]

    def of(self, row: str) -> list[str]:
        """The data sets behind a row."""
        return list(self.sets) if row == MEAN else [row]


def markdown(evaluation: Evaluation) -> str:
    """The whole report."""
    about = evaluation.about
    versions = ", ".join(f"{name} {version}" for name, version in about.versions.items())
    runs = f" Measured in {len(about.resumed) + 1} runs." if about.resumed else ""
    parts = [
        f"# {about.draft} on {about.target}",
        f"{about.dtype}, {about.sampling}, at most {about.new_tokens} new tokens, one stream. "
        f"{about.device if about.device != 'cpu' else about.processor}, {about.num_threads} "
        f"threads, {versions}. {about.started}.{runs}\n\n    {about.command}",
        "## Summary",
        summary(evaluation.rows, MEAN),
        "## Data",
        _data(evaluation),
        "## Acceptance rate α, relative cost c, expected speedup",
        _table_1(evaluation),
        "## Acceptance by position",
        _positions(evaluation),
        "## Wall-time speedup and tokens per step",
        _table_2(evaluation),
        _comparisons(evaluation),
        _NOTES,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _data(evaluation: Evaluation) -> str:
    header = ("data set", "prompts in the file", "measured", "left out", "in the training text")
    found = evaluation.contamination
    rows = [
        (
            name,
            str(counts.num_in_file),
            f"{counts.num_measured} of {counts.num_chosen}",
            str(counts.num_left_out),
            f"{len(found.found[name])} of {counts.num_chosen}" if found else "not checked",
        )
        for name, counts in evaluation.data.items()
    ]
    return f"{table(header, rows)}\n\n{_contamination(evaluation)}"


def _contamination(evaluation: Evaluation) -> str:
    found = evaluation.contamination
    if found is None:
        return "Whether the draft was trained on these prompts was not checked (`--trained-on`)."
    total = sum(counts.num_chosen for counts in evaluation.data.values())
    text = f"{found.num_found} of {total} prompts occur in the training text"
    text = f"**{text}**" if found.num_found else text
    rest = f"{found.num_without_prompt:,} lines of plain text were not compared"
    compared = f"{', '.join(found.files)}: {found.num_prompts:,} prompts compared"
    return f"{text} ({compared}{'; ' + rest if found.num_without_prompt else ''})."


def _table_1(evaluation: Evaluation) -> str:
    header = ("data set", "draft", "α %", "c %", "expected speedup")
    paper = (f"α %, {_PAPER}", "c %, paper", "expected, paper")
    rows = [
        (
            name,
            LABELS[method],
            percent(chain.acceptance),
            percent(chain.relative_cost),
            number(chain.expected_speedup),
            *_published_chain(method, evaluation.of(name)),
        )
        for name, figures in evaluation.rows
        for method, entry in figures.methods.items()
        if (chain := entry.chain) is not None
    ]
    return table((*header, *paper), rows)


def _published_chain(method: MethodName, sets: Sequence[str]) -> tuple[str, str, str]:
    """The paper's cells of a chain; sets: the row's data set, or several for the mean's row."""
    chains = published.CHAINS.get(method, {})
    acceptance = mean_of(sets, {name: chain.acceptance for name, chain in chains.items()})
    expected = mean_of(sets, {name: chain.expected_speedup for name, chain in chains.items()})
    if not acceptance:
        return NONE, NONE, NONE
    cost = joined(published.RELATIVE_COST[method], ".1f")
    return joined(acceptance, ".1f"), cost, joined(expected, ".2f")


def _positions(evaluation: Evaluation) -> str:
    header = ("data set", "measure", *(str(i + 1) for i in range(CHAIN_DEPTH)), "all")
    rows = list[tuple[str, ...]]()
    for name, figures in evaluation.rows:
        for method, entry in figures.methods.items():
            if entry.chain is not None:
                by_position = entry.chain.acceptance_by_position
                cells = map(percent, (*by_position, entry.chain.acceptance))
                rows.append((name, f"{LABELS[method]}: accepted %", *cells))
        agreement = map(percent, (*figures.agreement, figures.agreement_overall))
        rows.append((name, "GliDe: agreement %", *agreement))
        overlap = map(percent, (*figures.overlap, figures.overlap_overall))
        rows.append((name, "GliDe: overlap %", *overlap))
    return table(header, rows)


def _table_2(evaluation: Evaluation) -> str:
    header = (
        *("data set", "method", "tokens/step", "speedup", "p", "tokens/s"),
        *("rows/step", "draft ms/step", "verify ms", "other ms", "answers ≠ plain"),
        *(f"speedup, {_PAPER}", "tokens/step, paper's 7B", "draft ms/round, paper's 7B"),
    )
    rows = [
        (
            name,
            LABELS[method],
            number(entry.tokens_per_step),
            number(entry.speedup),
            p_value(entry.p_value),
            f"{entry.tokens_per_second:.1f}",
            f"{entry.nodes_per_step:.1f}",
            *_parts(method, entry.draft_ms, entry.verify_ms, entry.other_ms),
            f"{entry.num_differing} of {figures.num_prompts}",
            joined(mean_of(evaluation.of(name), published.SPEEDUPS.get(method, {})), ".2f") or NONE,
            cell(published.TOKENS_PER_STEP.get(method, {}).get(name)),
            cell(published.DRAFT_MS.get(method)) if name == "mt_bench" else NONE,
        )
        for name, figures in evaluation.rows
        for method, entry in figures.methods.items()
    ]
    return table(header, rows)


def _parts(method: MethodName, *milliseconds: float) -> Iterable[str]:
    """The parts of a step as cells; plain decoding has only one."""
    return (NONE if method == "plain" else f"{value:.2f}" for value in milliseconds)


def _comparisons(evaluation: Evaluation) -> str:
    rows = [
        (name, number(found.speedup), p_value(found.p_value))
        for name, figures in evaluation.rows
        if (found := figures.cape_against_chain) is not None
    ]
    found_table = table(("data set", "time of the chain / time of CaPE", "p"), rows)
    return f"## CaPE against the chain\n\n{found_table}" if rows else ""
