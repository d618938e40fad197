"""The exact bytes each token stands for.

Two families of tokenizers cover every model served here:

    byte-level BPE   each character of a token is one byte in disguise (GPT-2's table)
    sentencepiece    `▁` is a space, `<0xE4>` is one raw byte, the rest is UTF-8

Text is then the concatenation of bytes, decoded as UTF-8. That is why streaming needs neither
re-decoding nor a look back (see `detokenizer.py`).
"""

import json
from typing import Any, Final

from tokenizers import Tokenizer as BackendTokenizer

from server.errors import UnsupportedModelError

_SPACE_MARK: Final = "▁"
_SENTENCEPIECE_PARTS: Final = frozenset({"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"})


def _gpt2_bytes() -> dict[str, int]:
    """GPT-2's table, inverted: printable Latin-1 characters stand for themselves, the other bytes
    for the characters from U+0100 on, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(0x100 + index): byte for index, byte in enumerate(others)}


_GPT2_BYTES: Final = _gpt2_bytes()


def _decoder_parts(backend: BackendTokenizer) -> list[dict[str, Any]]:
    """The decoder's steps as plain dicts, sequences flattened."""
    if backend.decoder is None:
        return []
    # The decoder alone: serialising the whole tokenizer takes long at 150 000 tokens.
    state: dict[str, Any] = json.loads(backend.decoder.__getstate__())
    return state["decoders"] if state["type"] == "Sequence" else [state]


def _is_byte_level(parts: list[dict[str, Any]]) -> bool:
    """Tells the two families apart.

    Raises:
        UnsupportedModelError: the decoder belongs to neither.
    """
    kinds = [part["type"] for part in parts]
    if kinds and set(kinds) <= {"ByteLevel", "Fuse"}:
        return True
    replaces = [part for part in parts if part["type"] == "Replace"]
    marks_only = all(
        part["pattern"] == {"String": _SPACE_MARK} and part["content"] == " " for part in replaces
    )
    if kinds and set(kinds) <= _SENTENCEPIECE_PARTS and marks_only:
        return False
    raise UnsupportedModelError(f"tokenizer decoder {kinds or None} is not implemented")


class TokenBytes:
    """Maps token ids to bytes; looked up once per id, then cached.

    Raises:
        UnsupportedModelError: the tokenizer is neither byte-level nor sentencepiece.
    """

    def __init__(self, backend: BackendTokenizer) -> None:
        parts = _decoder_parts(backend)
        self._backend = backend
        self._byte_level = _is_byte_level(parts)
        self._has_byte_tokens = any(part["type"] == "ByteFallback" for part in parts)
        self._added = {
            token_id: token.content.encode()
            for token_id, token in backend.get_added_tokens_decoder().items()
        }
        self._cache: dict[int, bytes] = {}
        self.longest = self._find_longest()
        """Most bytes that one token has."""

    def __call__(self, token_id: int) -> bytes:
        """Bytes of one token inside a text; empty for an id outside of the vocabulary (embeddings
        are often padded beyond it)."""
        found = self._cache.get(token_id)
        if found is None:
            found = self._cache[token_id] = self._look_up(token_id)
        return found

    def first(self, token_id: int) -> bytes:
        """Bytes of a token that begins a text: sentencepiece decoders drop its leading space."""
        token = self._backend.id_to_token(token_id)
        if self._byte_level or token is None or self._backend.decoder is None:
            return self(token_id)
        # The library's own decoder knows whether and how much is dropped. It can't show a lone
        # byte of a longer character, and such a byte has nothing to drop.
        text = self._backend.decoder.decode([token])
        return self(token_id) if "\ufffd" in text else text.encode()

    def _find_longest(self) -> int:
        to_bytes = self._byte_level_bytes if self._byte_level else self._piece_bytes
        # Not by looking each id up, which would fill the cache with the whole vocabulary.
        pieces = self._backend.get_vocab(with_added_tokens=False)
        longest_piece = max((len(to_bytes(piece)) for piece in pieces), default=0)
        return max([longest_piece, *map(len, self._added.values())])

    def _look_up(self, token_id: int) -> bytes:
        if token_id in self._added:
            return self._added[token_id]
        token = self._backend.id_to_token(token_id)
        if token is None:
            return b""
        return self._byte_level_bytes(token) if self._byte_level else self._piece_bytes(token)

    def _byte_level_bytes(self, token: str) -> bytes:
        try:
            return bytes([_GPT2_BYTES[char] for char in token])
        except KeyError:
            # Same as the library: a token with a character outside of the table is plain text.
            return token.encode()

    def _piece_bytes(self, token: str) -> bytes:
        if self._has_byte_tokens and len(token) == 6 and token.startswith("<0x"):
            return bytes([int(token[3:5], 16)])
        return token.replace(_SPACE_MARK, " ").encode()
