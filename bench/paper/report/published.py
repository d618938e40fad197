"""The paper's own figures (Du et al., ICML 2024, arXiv 2402.02082), to stand beside ours.

One H800, fp16, batch 1, greedy, 128 new tokens, prefill left out; 200 prompts a set, the first
turns of MT-bench. Another machine and other models: they show what a GliDe of the paper's size
reaches, not what ours must.
"""

from typing import NamedTuple

TARGETS = ("Vicuna-7B", "Vicuna-13B", "Vicuna-33B")
"""Targets in the order of the entries below; the paper's Mistral-7B rows are left out."""


class PublishedChain(NamedTuple):
    """Table 1: α in percent and expected speedup at γ 5, per target."""

    acceptance: tuple[float, ...]
    expected_speedup: tuple[float, ...]


RELATIVE_COST = {"chain": (6.7, 5.5, 6.8), "draft_model": (7.7,)}
"""c in percent, per target. The draft model is LLaMA-68M for Vicuna-7B."""

CHAINS: dict[str, dict[str, PublishedChain]] = {
    "chain": {
        "gsm8k": PublishedChain((64.8, 67.1, 69.3), (1.97, 2.16, 2.16)),
        "finance_alpaca": PublishedChain((63.2, 65.0, 64.3), (1.90, 2.07, 1.94)),
        "spider": PublishedChain((55.7, 57.1, 62.7), (1.64, 1.77, 1.87)),
        "code_search_python": PublishedChain((67.0, 68.6, 68.9), (2.06, 2.24, 2.14)),
    },
    "draft_model": {
        "gsm8k": PublishedChain((51.6,), (1.46,)),
        "finance_alpaca": PublishedChain((49.7,), (1.41,)),
        "spider": PublishedChain((19.2,), (0.89,)),
        "code_search_python": PublishedChain((34.8,), (1.11,)),
    },
}
"""Figures by the name of our method and by data set."""

SPEEDUPS: dict[str, dict[str, tuple[float, ...]]] = {
    "chain": {
        "gsm8k": (1.90, 2.32, 2.27),
        "finance_alpaca": (1.94, 2.07, 2.02),
        "spider": (1.69, 1.82, 1.95),
        "code_search_python": (2.11, 2.35, 2.14),
        "mt_bench": (2.0, 2.2, 1.9),
    },
    "beam4": {"mt_bench": (1.9, 2.2, 2.2)},
    "cape": {"mt_bench": (2.6, 2.6, 2.5)},
}
"""Wall-time speedup over plain decoding, per target."""

TOKENS_PER_STEP: dict[str, dict[str, float]] = {
    "chain": {"mt_bench": 2.5},
    "cape": {"mt_bench": 3.5},
}
"""Approximate, for Vicuna-7B; from later papers that ran the authors' drafts."""

DRAFT_MS = {"chain": 5.3, "beam4": 10.9, "beam8": 14.8, "cape": 5.5}
"""Speculation time of a round, Vicuna-7B."""


def joined(values: tuple[float, ...], form: str) -> str:
    """`64.8 / 67.1 / 69.3`; empty for none."""
    return " / ".join(format(value, form) for value in values)
