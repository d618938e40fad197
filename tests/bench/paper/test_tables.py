"""The Markdown, cell by cell where it matters."""

from bench.paper.about import About
from bench.paper.figures import set_figures
from bench.paper.tables import MEAN, Report, markdown
from tests.bench.paper.made import chain, plain, result

ABOUT = About(
    target="tiny",
    draft="made-up",
    dtype="float32",
    new_tokens=10,
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


def report(*names: str) -> Report:
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
    return Report(ABOUT, sets, set_figures([prompts] * len(names)) if len(names) > 1 else None)


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
    assert cells[:3] == ["76.5 [66.7, 87.5]", "6.0", "2.62"]
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


def test_unknown_sets_have_no_figures_of_the_paper_and_several_a_mean() -> None:
    text = markdown(report("mine", "spider"))
    assert row(section(text, "Acceptance rate"), "mine", "GliDe, γ 5")[3:] == ["-", "-", "-"]
    assert row(section(text, "Wall-time"), MEAN, "GliDe, γ 5")[-3:] == ["-", "-", "-"]
    assert MEAN not in markdown(report("mine"))


def test_rows_are_as_wide_as_their_header() -> None:
    text = markdown(report("gsm8k", "mt_bench"))
    for part in text.split("\n\n"):
        lines = [line for line in part.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) <= 1
