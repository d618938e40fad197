"""Which prompts are measured, and what their rates count."""

import pytest

from bench.peers.workloads import make_workloads
from server.errors import ConfigError

PROMPTS = [(1, 2), (3,), (4, 5, 6)]


def test_every_round_takes_the_next_prompts() -> None:
    one, two = make_workloads(PROMPTS, (1, 2), new_tokens=8, long_prompt=0, rounds=4)
    assert one.rounds == [[(1, 2)], [(3,)], [(4, 5, 6)], [(1, 2)]]
    assert two.rounds == [
        [(1, 2), (3,)], [(4, 5, 6), (1, 2)], [(3,), (4, 5, 6)], [(1, 2), (3,)]
    ]  # fmt: skip
    assert (one.name, two.name) == ("1 stream", "2 streams")
    assert (one.longest, one.max_streams) == (11, 1)
    assert (two.longest, two.max_streams) == (11, 2)


def test_rates() -> None:
    two, long = make_workloads(PROMPTS, (2,), new_tokens=8, long_prompt=7, rounds=2)
    assert two.rate(0, seconds=2.0) == 8.0  # 2 answers of 8
    assert long.rate(1, seconds=2.0) == 3.5  # of the prompt's 7
    assert long.rounds == [[[1, 2, 3, 4, 5, 6, 1]], [[3, 4, 5, 6, 1, 2, 3]]]
    assert long.new_tokens == 1


@pytest.mark.parametrize(
    ("streams", "long_prompt", "named"), [((0,), 0, "streams='0'"), ((), 0, "nothing to measure")]
)
def test_what_makes_no_sense_is_refused(
    streams: tuple[int, ...], long_prompt: int, named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        make_workloads(PROMPTS, streams, 8, long_prompt, rounds=1)
