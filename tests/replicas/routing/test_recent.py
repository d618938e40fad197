"""Requests that a replica got lately."""

import pytest

from server.replicas.routing.recent import WINDOW, RecentRequests


def test_older_ones_count_less() -> None:
    recent = RecentRequests[str]()
    for name in "aabb":
        recent.add(name, 2)
    assert 0 < recent.of("a") < recent.of("b") < 2
    assert recent.of("never") == 0


def test_as_many_each_come_to_the_window() -> None:
    """After long: each of three replicas has what fades in a round, 32 in the mean."""
    recent = RecentRequests[int]()
    for number in range(3000):
        recent.add(number % 3, 3)
    counts = [recent.of(each) for each in range(3)]
    assert sum(counts) == pytest.approx(3 * WINDOW, rel=0.01)
    assert max(counts) < 1.05 * min(counts)


def test_weights_stay_finite() -> None:
    """The counts are divided now and then; that must not show."""
    recent, before = RecentRequests[str](), 0.0
    for number in range(5000):
        recent.add("a", 1)
        now = recent.of("a")
        assert number < 1000 or now == pytest.approx(before)
        before = now
    assert before == pytest.approx(WINDOW)


def test_a_new_replica_begins_as_the_mean() -> None:
    recent = RecentRequests[str]()
    for name in "aaab":
        recent.add(name, 2)
    a, b = recent.of("a"), recent.of("b")
    recent.keep("abc")
    assert (recent.of("a"), recent.of("b")) == (a, b)
    assert recent.of("c") == pytest.approx((a + b) / 2)
    recent.keep("c")
    assert recent.of("a") == 0
