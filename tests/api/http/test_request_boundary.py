"""Where a request ends: no byte of a body is ever taken for a request, however it is sent."""

from collections.abc import Generator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.api.raw_http import RecordingServer, Told, recording_server

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"

OFFERS = (
    b"",
    b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAEAAEAAAAIAAAAB\r\n",
    b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"sec-websocket-version: 13\r\n",
    b"upgrade: h2c\r\n",
    b"expect: 100-continue\r\n",
)
"""What a client may offer beside a body, and gets no answer to but the plain one."""

REFUSED = (
    b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n4\r\naaaa\r\n0\r\n\r\n",
    b"transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n",
    b"content-length: 4\r\ncontent-length: 5\r\n\r\naaaa",
    b"content-length: 4, 5\r\n\r\naaaa",
    b"content-length: +4\r\n\r\naaaa",
    b"content-length: -4\r\n\r\naaaa",
    b"content-length: 0x4\r\n\r\naaaa",
    b"content-length: 4 4\r\n\r\naaaa",
    b"content-length: \xc2\xb2\r\n\r\naaaa",
    b"content-length: 99999999999999999999999999\r\n\r\naaaa",
    b"content-length : 4\r\n\r\naaaa",
    b" content-length: 4\r\n\r\naaaa",
    b"x: y\ncontent-length: 4\r\n\r\naaaa",
    b"x: y\r\n\tcontent-length: 4\r\n\r\naaaa",
    b"transfer-encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    b"content-length: 4\rx: y\r\n\r\naaaa",
    b"content-\x00length: 4\r\n\r\naaaa",
    b"transfer-encoding: identity\r\n\r\n",
    b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
    b"transfer-encoding: chunked\r\n\r\n0x4\r\naaaa\r\n0\r\n\r\n",
    b"transfer-encoding: chunked\r\n\r\n-4\r\naaaa\r\n0\r\n\r\n",
    b"transfer-encoding: chunked\r\n\r\n4\r\naaaaaa\r\n0\r\n\r\n",
    b"transfer-encoding: chunked\r\n\r\n\r\naaaa\r\n0\r\n\r\n",
    b"host: y\r\n\r\n",
)
"""Headers and bodies whose end is said in no way, in two, or in one that others may read
differently."""


@dataclass(frozen=True)
class Sent:
    raw: bytes
    told: Told


@pytest.fixture(scope="module")
def server() -> Generator[RecordingServer]:
    with recording_server() as running:
        yield running


def chunked(body: bytes, cuts: list[int], extension: bytes, trailer: bytes) -> bytes:
    ends = [*sorted({cut % len(body) for cut in cuts} - {0}), len(body)] if body else []
    starts = [0, *ends]
    parts = [body[start:end] for start, end in zip(starts, ends, strict=False)]
    chunks = [b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in parts]
    return b"".join(chunks) + b"0\r\n" + trailer + b"\r\n"


bodies = st.lists(
    st.sampled_from([SMUGGLED, b"\r\n", b"\r\n\r\n", b"0\r\n\r\n", b"{}", b"a", b"GET "])
    | st.binary(max_size=8)
).map(b"".join)


@st.composite
def requests(draw: st.DrawFn) -> Sent:
    number = draw(st.integers(0, 9))
    path = draw(st.sampled_from(("/read", "/unread"))) + f"/{number}"
    offer = draw(st.sampled_from(OFFERS))
    body = draw(bodies)
    if draw(st.booleans()):
        framing = b"transfer-encoding: chunked\r\n"
        cuts = draw(st.lists(st.integers(1, 500), max_size=4))
        extension = draw(st.sampled_from((b"", b";a=b", b';a="b"')))
        trailer = draw(st.sampled_from((b"", b"x-sum: 1\r\n")))
        content = chunked(body, cuts, extension, trailer)
    else:
        framing = b"content-length: %d\r\n" % len(body)
        framing *= draw(st.integers(1, 2))
        content = body
    head = b"POST %b HTTP/1.1\r\nhost: x\r\n%b%b\r\n" % (path.encode(), offer, framing)
    told = Told("POST", path, body if path.startswith("/read") else None)
    return Sent(head + content, told)


def cut(raw: bytes, places: list[int]) -> list[bytes]:
    ends = [*sorted({place % len(raw) for place in places} - {0}), len(raw)]
    return [raw[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@settings(max_examples=150, deadline=None)
@given(st.lists(requests(), max_size=5), st.lists(st.integers(1, 5000), max_size=6))
def test_the_app_is_told_of_what_was_sent(
    server: RecordingServer, sent: list[Sent], places: list[int]
) -> None:
    """However requests are framed, cut into packets and sent before their answers."""
    raw = b"".join(request.raw for request in sent) + LAST
    found, told = server.exchange(cut(raw, places))
    expected = [*(request.told for request in sent), Told("GET", "/last", b"")]
    # Where nobody read a body that the client had asked about, the server closes.
    asked = (b"expect" in request.raw and request.told.body is None for request in sent)
    closes_after = next((index + 1 for index, closes in enumerate(asked) if closes), None)
    if closes_after is None:
        assert told == expected
    else:
        assert told[:closes_after] == expected[:closes_after]
        assert told == expected[: len(told)]
    assert found == [200] * len(told)


@pytest.mark.parametrize("headers", REFUSED)
@given(st.lists(requests().filter(lambda sent: b"expect" not in sent.raw), max_size=2))
@settings(max_examples=5, deadline=None)
def test_what_could_be_read_in_two_ways_is_refused(
    server: RecordingServer, headers: bytes, before: list[Sent]
) -> None:
    bad = b"POST /read/bad HTTP/1.1\r\nhost: x\r\n" + headers
    raw = b"".join(request.raw for request in before) + bad + SMUGGLED + LAST
    found, told = server.exchange([raw])
    assert told == [request.told for request in before]
    assert found[:-1] == [200] * len(before)
    assert found[-1] in (400, 501), found


@pytest.mark.parametrize(
    "trailer", [b"x: y\n\n", b"x: y\n\r\n", b"\n", b"x: y\r\n z\r\n\r\n", b"x: y\r\n\n"]
)
def test_trailers_are_as_strict_as_heads(server: RecordingServer, trailer: bytes) -> None:
    """A reader that takes a bare line feed for a part of a value would see no end here."""
    raw = b"POST /read HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n"
    found, told = server.exchange([raw + trailer + SMUGGLED + LAST])
    assert [each for each in told if each.path != "/read"] == []
    assert found in ([400], [200, 400]), found


@pytest.mark.parametrize("version", [b"1.0", b"0.9", b"2.0", b"3", b""])
def test_chunks_are_of_http_1_1(server: RecordingServer, version: bytes) -> None:
    raw = b"POST /read HTTP/%b\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n" % version
    found, told = server.exchange([raw + b"0\r\n\r\n" + SMUGGLED + LAST])
    assert told == []
    assert found in ([400], [505])


@pytest.mark.parametrize("offer", OFFERS)
def test_a_body_beside_an_offer_is_a_body(server: RecordingServer, offer: bytes) -> None:
    """As every Java client's, and curl's with `--http2`."""
    head = b"POST /read HTTP/1.1\r\nhost: x\r\n%bcontent-length: %d\r\n\r\n"
    found, told = server.exchange([head % (offer, len(SMUGGLED)), SMUGGLED, LAST])
    assert told == [Told("POST", "/read", SMUGGLED), Told("GET", "/last", b"")]
    assert found == [200, 200]


def test_nothing_follows_a_request_that_closes(server: RecordingServer) -> None:
    head = b"POST /read HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\n"
    found, told = server.exchange([head + b"{}", b"\r\n" + SMUGGLED, LAST])
    assert told == [Told("POST", "/read", b"{}")]
    assert found == [200]
