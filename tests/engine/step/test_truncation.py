"""top_k, top_p, min_p against a plain definition, with vocabularies beyond the first look."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.step.truncation import keep_mask


def expected(probs: torch.Tensor, top_k: int, top_p: float, min_p: float) -> set[int]:
    """One row, by the definition: sort, keep k, keep the nucleus of these, drop the improbable."""
    order = probs.argsort(descending=True).tolist()
    kept = order[: top_k or len(order)]
    total = sum(float(probs[i]) for i in kept) if 0 < top_k < len(order) else 1.0
    nucleus, mass = list[int](), 0.0
    for index in kept:
        if top_p < 1 and mass >= top_p * total:
            break
        nucleus.append(index)
        mass += float(probs[index])
    least = max(float(probs[nucleus[-1]]), min_p * float(probs.max()))
    return {i for i in order if float(probs[i]) >= least}


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([5, 300, 3000]),
    st.integers(0, 2**32 - 1),
    st.lists(
        st.tuples(
            st.sampled_from([0, 1, 2, 7, 255, 256, 257, 1000, 5000]),
            st.sampled_from([1.0, 0.999, 0.9, 0.5, 0.01]),
            st.sampled_from([0.0, 0.0, 0.05, 1.0]),
        ),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from([0.3, 1.0, 4.0]),
)
def test_matches_the_definition(
    vocab: int, seed: int, rows: list[tuple[int, float, float]], scale: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    probs = (torch.randn(len(rows), vocab, generator=generator) * scale).softmax(-1)
    top_k, top_p, min_p = (torch.tensor(column) for column in zip(*rows, strict=True))
    keep = keep_mask(probs, top_k, top_p, min_p)
    for i, (k, p, m) in enumerate(rows):
        got = set(range(vocab)) if keep is None else set(keep[i].nonzero().flatten().tolist())
        want = expected(probs[i], k, float(top_p[i]), float(min_p[i]))
        # Sums in another order may move the nucleus's edge by one token.
        assert len(got ^ want) <= 1, (k, p, m)


def test_equal_probabilities_stay_or_go_together() -> None:
    probs = torch.tensor([[0.3, 0.2, 0.2, 0.2, 0.1]])
    keep = keep_mask(probs, torch.tensor([2]), torch.tensor([1.0]), torch.tensor([0.0]))
    assert keep is not None
    assert keep.tolist() == [[True, True, True, True, False]]


@pytest.mark.parametrize(
    ("top_k", "top_p", "min_p"), [(1, 1.0, 0.0), (0, 1e-6, 0.0), (0, 1.0, 1.0)]
)
def test_the_most_probable_token_always_stays(top_k: int, top_p: float, min_p: float) -> None:
    probs = torch.tensor([[0.1, 0.6, 0.3]])
    keep = keep_mask(probs, torch.tensor([top_k]), torch.tensor([top_p]), torch.tensor([min_p]))
    assert keep is not None
    assert keep.tolist() == [[False, True, False]]


def test_nothing_to_do_makes_no_mask() -> None:
    probs = torch.tensor([[0.5, 0.5]])
    off = torch.tensor([0]), torch.tensor([1.0]), torch.tensor([0.0])
    assert keep_mask(probs, *off) is None
