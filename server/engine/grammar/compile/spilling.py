"""Tokens that end a model's thinking and have the beginning of its answer in them too."""

from server.engine.grammar.compile.compiler import Vocabulary


class SpillingTokens:
    """Tokens that end a mark and go on with other text than white space, by how much of the mark
    comes before them. Shared by all requests, since finding them takes a look at each token: tens
    of milliseconds, for which the engine's steps should not have to wait (`prepare`)."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._found: dict[bytes, dict[int, list[int]]] = {}

    def prepare(self, mark: bytes) -> None:
        """Finds those of a mark, if they are not known; may be called in any thread."""
        if mark not in self._found:
            self._found[mark] = self._find(mark)

    def behind(self, tail: bytes, mark: bytes) -> list[int]:
        """Those that can follow bytes."""
        self.prepare(mark)
        lengths = [n for n in range(1, len(mark)) if tail.endswith(mark[:n])]
        return [i for n in (0, *lengths) for i in self._found[mark].get(n, ())]

    def _find(self, mark: bytes) -> dict[int, list[int]]:
        """Token ids by the number of the mark's bytes that come before them."""
        found: dict[int, list[int]] = {}
        for token_id in range(self._vocabulary.size):
            raw = self._vocabulary.token_bytes(token_id)
            if mark[-1:] in raw[:-1]:
                for num_before in range(len(mark)):
                    if _spills(raw, mark, num_before):
                        found.setdefault(num_before, []).append(token_id)
        return found


def _spills(raw: bytes, mark: bytes, num_before: int) -> bool:
    if num_before == 0:
        _, found, rest = raw.partition(mark)
        return bool(found and rest.strip())
    left = mark[num_before:]
    return raw.startswith(left) and bool(raw[len(left) :].strip())
