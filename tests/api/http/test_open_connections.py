"""Which connection gives way: counted beside a plain search over all of them."""

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from server.api.http.open_connections import OpenConnections

MAX_CONNECTIONS, MAX_PER_HOST = 5, 3


@dataclass(eq=False)
class Client:
    host: str
    has_unsent: bool = False
    is_idle: bool = True
    idle_since: int = 0
    was_cut: list[bool] = field(default_factory=list[bool])

    def cut(self) -> None:
        self.was_cut.append(True)


class CrowdMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.opened = OpenConnections(MAX_CONNECTIONS, MAX_PER_HOST)
        self.inside: list[Client] = []
        self.clock = 0

    def victim(self, among: list[Client]) -> Client | None:
        """The one that has to give way."""
        idle = [client for client in among if client.is_idle]
        can = [client for client in idle if not client.has_unsent]
        num_of = {client.host: sum(other.host == client.host for other in idle) for client in can}
        most = max(num_of.values(), default=0)
        return min(
            (client for client in can if num_of[client.host] == most),
            key=lambda client: client.idle_since,
            default=None,
        )

    @rule(host=st.sampled_from("abc"))
    def enter(self, host: str) -> None:
        self.clock += 1
        client = Client(host, idle_since=self.clock)
        of_host = [other for other in self.inside if other.host == host]
        full_host = len(of_host) >= MAX_PER_HOST
        full = len(self.inside) >= MAX_CONNECTIONS
        victim = self.victim(of_host if full_host else self.inside)
        assert self.opened.enter(client) is (victim is not None or not (full or full_host))
        if full or full_host:
            cut = [other for other in self.inside if other.was_cut]
            if victim is None:
                assert cut == []
                return
            assert len(cut) == 1
            # Of two addresses with as many, either.
            same = [other for other in cut if self.is_as_good(other, victim)]
            assert same
            self.inside.remove(cut[0])
        self.inside.append(client)

    def is_as_good(self, found: Client, expected: Client) -> bool:
        if found.host == expected.host:
            return found is expected
        idle = [client.host for client in self.inside if client.is_idle]
        return idle.count(found.host) == idle.count(expected.host)

    @precondition(lambda self: self.inside)
    @rule(data=st.data(), is_idle=st.booleans(), has_unsent=st.booleans())
    def change(self, data: st.DataObject, is_idle: bool, has_unsent: bool) -> None:
        self.clock += 1
        client = data.draw(st.sampled_from(self.inside))
        client.has_unsent = has_unsent
        if is_idle and not client.is_idle:
            client.idle_since = self.clock
        client.is_idle = is_idle
        self.opened.set_idle(client, is_idle)

    @precondition(lambda self: self.inside)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        client = data.draw(st.sampled_from(self.inside))
        self.inside.remove(client)
        for _ in range(2):
            self.opened.leave(client)

    @invariant()
    def counts(self) -> None:
        assert len(self.opened) == len(self.inside) <= MAX_CONNECTIONS


TestCrowd = CrowdMachine.TestCase
TestCrowd.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_full_house_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    opened = OpenConnections(1, None)
    entered = [opened.enter(Client("a")) for _ in range(5)]
    assert all(entered)
    (record,) = caplog.records
    assert "1 connections are open" in record.getMessage()
