"""Token ids → text, one token at a time, never showing half a character.

Not `tokenizers.decoders.DecodeStream`: it decodes all held tokens again at each step, holds text
back for ever once an invalid byte is followed by more of them, and gives no offsets. Every token's
bytes are known (`token_bytes.py`), so an incremental UTF-8 decoder does the same in O(1).

The concatenated text equals the full decode, with three exceptions:

- An incomplete character at the very end is dropped. The full decode shows U+FFFD.
- Invalid bytes become one U+FFFD for each malformed sequence, as soon as it is known to be one.
  Byte-fallback decoders replace every byte of a run that has a fault anywhere, valid characters
  included, which can't be known before the run ends.
- A text that continues another one keeps its leading space (`continues_text`).
"""

import codecs
from collections.abc import Set

from server.text.tokenizer import Tokenizer

_Utf8Decoder = codecs.getincrementaldecoder("utf-8")


class Detokenizer:
    """The text of one sequence.

    Args:
        continues_text: The first token goes on where a prompt ended, so a leading space is part
            of the text ("Once upon a" + " time"). False where the text stands alone (chat).
        shown_ids: Special tokens whose text is shown, because the reader of the text needs them.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        continues_text: bool = False,
        shown_ids: Set[int] = frozenset(),
    ) -> None:
        self._token_bytes = tokenizer.token_bytes
        self._hidden_ids = tokenizer.special_ids - shown_ids
        self._utf8 = _Utf8Decoder(errors="replace")
        self._at_start = not continues_text

    def push(self, token_id: int) -> str:
        """Characters that this token completes; special tokens usually have no text."""
        if token_id in self._hidden_ids:
            return ""
        if self._at_start:
            self._at_start = False
            return self._utf8.decode(self._token_bytes.first(token_id))
        return self._utf8.decode(self._token_bytes(token_id))

    @property
    def is_mid_character(self) -> bool:
        """Whether the last bytes are the beginning of a character that is not complete yet."""
        return self._utf8.getstate()[0] != b""
