"""The Markdown, cell by cell where it matters."""

from dataclasses import replace

from bench.paper.data.contamination import Contamination
from bench.paper.measure.about import About
from bench.paper.report.figures import set_figures
from bench.paper.report.tables import MEAN, DataCounts, Evaluation, markdown
from tests.bench.paper.made import chain, plain, result

ABOUT = About(
    target="tiny",
    draft="made-up",
    dtype="float32",
    new_tokens=10,
    sampling="greedy",
    device="cpu",
    processor="A CPU",
    num_cpus=2,
    num_threads=2,
    memory_bytes=2**34,
    platform="Linux",
    versions={"glidecape": "0", "torch": "1"},
    command="glidecape eval --draft made-up",
    started="2026-01-01T00:00:00+00:00",
)


def report(*names: str, contamination: Contamination | None = None) -> Evaluation:
    prompts = [
        result(
            "a",
            plain=plain(10, 9.0),
            chain=chain([3, 3, 0], 3.0, 0.75),
            cape=chain([3, 4], 3.0, 0.5, depth=4),
        ),
        result(
            "b",
            plain=plain(10, 18.0),
            chain=chain([5, 2], 9.0, 1.5),
            cape=chain([3, 4], 8.0, 0.5, depth=4),
        ),
    ]
    sets = {name: set_figures([prompts]) for name in names}
    data = dict.fromkeys(names, DataCounts(200, 3, 3, 1))
    mean = set_figures([prompts] * len(names)) if len(names) > 1 else None
    return Evaluation(ABOUT, data, contamination, sets, mean)


def row(text: str, *first: str) -> list[str]:
    """The only table row whose first cells are these; its other cells."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    (found,) = [cells for cells in rows if cells[: len(first)] == list(first)]
    return found[len(first) :]


def section(text: str, title: str) -> str:
    (found,) = [part for part in text.split("\n## ") if part.startswith(title)]
    return found


def test_the_head_says_what_was_measured() -> None:
    text = markdown(report("gsm8k"))
    assert text.startswith("# made-up on tiny\n")
    assert "float32, greedy, at most 10 new tokens, one stream. A CPU, 2 threads" in text
    assert "    glidecape eval --draft made-up" in text


def test_acceptance_cost_and_expected_speedup_beside_the_papers() -> None:
    table = section(markdown(report("gsm8k")), "Acceptance rate")
    cells = row(table, "gsm8k", "GliDe, γ 5")
    # 13 of 17; the resamples are 6/9, 13/17 and 7/8. c = 0.06.
    assert cells[:2] == ["76.5 [66.7, 87.5]", "6.0 [5.0, 7.5]"]
    assert cells[2].startswith("2.62 [2.19, ")
    assert cells[3:] == ["64.8 / 67.1 / 69.3", "6.7 / 5.5 / 6.8", "1.97 / 2.16 / 2.16"]


def test_positions() -> None:
    table = section(markdown(report("gsm8k")), "Acceptance by position")
    cells = row(table, "gsm8k", "GliDe, γ 5: accepted %")
    assert cells[0].startswith("80.0 [")
    assert cells[-1] == "76.5 [66.7, 87.5]"
    assert row(table, "gsm8k", "GliDe: agreement %")[4] == "-"


def test_speedups_beside_the_papers() -> None:
    table = section(markdown(report("mt_bench")), "Wall-time speedup")
    cells = row(table, "mt_bench", "GliDe, γ 5")
    assert cells[:4] == ["3.60 [3.00, 4.50]", "2.25 [2.00, 3.00]", "0.500", "1.5"]
    assert cells[-4:] == ["0 of 2", "2.00 / 2.20 / 1.90", "2.50", "5.30"]
    assert row(table, "mt_bench", "GliDe + CaPE, γ 4")[-3] == "2.60 / 2.60 / 2.50"
    assert row(table, "mt_bench", "plain")[2:8] == ["-", "0.7", "1.0", "-", "-", "-"]


def test_cape_against_the_chain() -> None:
    table = section(markdown(report("spider")), "CaPE against the chain")
    assert row(table, "spider")[0] == "1.09 [1.00, 1.12]"


def test_how_much_of_the_data_was_measured() -> None:
    table = section(markdown(report("gsm8k")), "Data")
    assert row(table, "gsm8k") == ["200", "3 of 3", "1", "not checked"]
    assert "was not checked (`--trained-on`)" in table


def test_prompts_in_the_training_text_are_stated() -> None:
    clean = Contamination(("text.jsonl",), 4000, 0, {"gsm8k": ()})
    table = section(markdown(report("gsm8k", contamination=clean)), "Data")
    assert row(table, "gsm8k")[3] == "0 of 3"
    assert (
        "\n0 of 3 prompts occur in the training text (text.jsonl: 4,000 prompts compared).\n"
        in table
    )
    found = Contamination(("text.jsonl",), 4000, 12, {"gsm8k": ("a", "b")})
    table = section(markdown(report("gsm8k", contamination=found)), "Data")
    assert row(table, "gsm8k")[3] == "2 of 3"
    assert "**2 of 3 prompts occur in the training text** (" in table
    assert "; 12 lines of plain text were not compared)" in table


def test_runs_that_went_on_are_counted() -> None:
    assert "Measured in" not in markdown(report("gsm8k"))
    found = report("gsm8k")
    resumed = replace(found.about, resumed=("2026-01-02T00:00:00+00:00",))
    assert ". Measured in 2 runs.\n" in markdown(replace(found, about=resumed))


def test_the_summary_has_the_papers_figures_beneath_ours() -> None:
    table = section(markdown(report("gsm8k", "mt_bench")), "Summary")
    ours = row(table, "gsm8k", "ours")
    assert ours[:2] == ["76.5 [66.7, 87.5]", "6.0 [5.0, 7.5]"]
    assert ours[3:5] == ["0.7", "2.25 [2.00, 3.00]; 3.60"]
    paper = "paper, Vicuna-7B / Vicuna-13B / Vicuna-33B"
    theirs = row(table, "gsm8k", paper)
    assert theirs[:2] == ["64.8 / 67.1 / 69.3", "6.7 / 5.5 / 6.8"]
    assert theirs[2:] == ["1.97 / 2.16 / 2.16", "-", "1.90 / 2.32 / 2.27", "-"]
    assert row(table, "mt_bench", paper)[-1] == "2.60 / 2.60 / 2.50; 3.50"


def test_the_papers_mean_is_over_the_same_sets() -> None:
    """The paper has acceptance rates for Spider and GSM8K, but not for MT-bench, and speedups for
    all three."""
    paper = "paper, Vicuna-7B / Vicuna-13B / Vicuna-33B"
    table = section(markdown(report("gsm8k", "spider")), "Summary")
    assert row(table, MEAN, paper)[0] == "60.2 / 62.1 / 66.0"
    table = section(markdown(report("gsm8k", "mt_bench")), "Summary")
    assert row(table, MEAN, paper)[0] == "-"
    assert row(table, MEAN, paper)[4] == "1.95 / 2.26 / 2.08"


def test_unknown_sets_have_no_figures_of_the_paper_and_several_a_mean() -> None:
    text = markdown(report("mine", "spider"))
    assert row(section(text, "Acceptance rate"), "mine", "GliDe, γ 5")[3:] == ["-", "-", "-"]
    assert row(section(text, "Wall-time"), MEAN, "GliDe, γ 5")[-3:] == ["-", "-", "-"]
    summary = section(text, "Summary")
    assert f"| {MEAN} | ours |" in summary
    assert f"| {MEAN} | paper" not in summary
    assert MEAN not in markdown(report("mine"))


def test_rows_are_as_wide_as_their_header() -> None:
    text = markdown(report("gsm8k", "mt_bench"))
    for part in text.split("\n\n"):
        lines = [line for line in part.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) <= 1
