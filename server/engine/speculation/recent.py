"""Recent answers of this server, in which prompt lookup finds continuations too: agents, retries
and evaluation runs repeat themselves. Pure.

Bounded: the oldest answers go. A tenant (a request's cache salt) finds its own answers alone.
"""

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

NGRAM = 6
"""Tokens that must be equal for an answer to be found by its text."""


class Place(NamedTuple):
    """The place in an earlier answer from which a sequence goes on as the answer did."""

    answer: int
    position: int
    """Position in the answer of the token that would follow."""
    num_equal: int
    """Tokens before it that are the sequence's own, as far as they were compared."""


class _Answer(NamedTuple):
    tenant: str | None
    token_ids: "array[int]"
    keys: list[int]
    """Keys in the index; entry i is of the n-gram that ends before position i + NGRAM."""
    prompt_key: int


class RecentOutputs:
    """An index of answers by their n-grams and by their whole prompts.

    Args:
        max_tokens: most tokens that are kept over all answers; about 150 bytes each.
    """

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self.num_tokens = 0
        self._answers: OrderedDict[int, _Answer] = OrderedDict()
        self._places: dict[int, tuple[int, int]] = {}
        """Hash of tenant and n-gram, or of tenant and prompt -> (answer, position behind it)."""
        self._num_added = 0

    @property
    def num_places(self) -> int:
        """Entries of the index."""
        return len(self._places)

    def add(self, tenant: str | None, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> None:
        """Adds an answer that has ended. It is cut where it is longer than max_tokens."""
        ids = array("q", token_ids[: self.max_tokens])
        if not ids:
            return
        self._num_added += 1
        name, prompt_key = self._num_added, _key(tenant, prompt_ids, "prompt")
        ends = range(NGRAM, len(ids))
        keys = [_key(tenant, ids[end - NGRAM : end], "text") for end in ends]
        self._answers[name] = _Answer(tenant, ids, keys, prompt_key)
        self._places.update((key, (name, end)) for key, end in zip(keys, ends, strict=True))
        self._places[prompt_key] = name, 0
        self.num_tokens += len(ids)
        while self.num_tokens > self.max_tokens:
            self._drop_oldest()

    def find(self, tenant: str | None, token_ids: Sequence[int], num_prompt: int) -> Place | None:
        """The latest answer to the same prompt that begins as a young sequence does, or the latest
        that has the sequence's last tokens."""
        # A young sequence has a token already: nothing is proposed before the first one.
        if len(token_ids) - num_prompt < NGRAM:
            found = self._places.get(_key(tenant, token_ids[:num_prompt], "prompt"))
            if found is not None and self._answers[found[0]].tenant == tenant:
                place = self.follow(Place(*found, num_equal=num_prompt), token_ids[num_prompt:])
                if place is not None:
                    return place
        found = self._places.get(_key(tenant, token_ids[-NGRAM:], "text"))
        if found is None:
            return None
        answer, end = self._answers[found[0]], found[1]
        # Two n-grams may have one hash; another tenant's text is never looked at further.
        same = list(answer.token_ids[end - NGRAM : end]) == list(token_ids[-NGRAM:])
        return Place(*found, num_equal=NGRAM) if same and answer.tenant == tenant else None

    def follow(self, place: Place, token_ids: Sequence[int]) -> Place | None:
        """Where the sequence is now in the answer that it was found in; None where it has parted
        from it, or the answer is at its end or gone.

        Args:
            token_ids: the sequence's tokens since then.
        """
        answer = self._answers.get(place.answer)
        end = place.position + len(token_ids)
        if answer is None or end >= len(answer.token_ids):
            return None
        if list(answer.token_ids[place.position : end]) != list(token_ids):
            return None
        return Place(place.answer, end, place.num_equal + len(token_ids))

    def read(self, place: Place, count: int) -> list[int]:
        """At most `count` tokens that follow at this place."""
        token_ids = self._answers[place.answer].token_ids
        return list(token_ids[place.position : place.position + count])

    def _drop_oldest(self) -> None:
        name, answer = self._answers.popitem(last=False)
        self.num_tokens -= len(answer.token_ids)
        for key in (*answer.keys, answer.prompt_key):
            found = self._places.get(key)
            if found is not None and found[0] == name:  # else a later answer's
                del self._places[key]


def _key(tenant: str | None, token_ids: Sequence[int], what: str) -> int:
    return hash((what, tenant, tuple(token_ids)))
