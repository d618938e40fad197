"""A prompt as text, and where each of its tokens begins in it: what `echo` sends back.

Unlike in an answer's text (`detokenizer.py`) special tokens are shown: they are part of what was
sent.
"""

import codecs
from collections.abc import Sequence
from typing import NamedTuple

from server.text.tokenizer import Tokenizer

_Utf8Decoder = codecs.getincrementaldecoder("utf-8")


class PromptText(NamedTuple):
    text: str
    starts: tuple[int, ...]
    """One for each token, in characters."""


def decode_prompt(tokenizer: Tokenizer, token_ids: Sequence[int]) -> PromptText:
    """The text of token ids, each as its bytes; what is no UTF-8 becomes U+FFFD.

    A token that goes on with a character which another one began starts where the character does.
    """
    utf8 = _Utf8Decoder(errors="replace")
    pieces: list[str] = []
    starts: list[int] = []
    length = 0
    for index, token_id in enumerate(token_ids):
        starts.append(length)
        raw = tokenizer.token_bytes
        pieces.append(utf8.decode(raw.first(token_id) if index == 0 else raw(token_id)))
        length += len(pieces[-1])
    pieces.append(utf8.decode(b"", final=True))
    return PromptText("".join(pieces), tuple(starts))


def place_tokens(tokenizer: Tokenizer, text: str, *, add_special_tokens: bool) -> PromptText:
    """The text as it was given, and where its tokens begin. Not by decoding them: a normaliser may
    have changed the text, and the tokenizer knows where its tokens come from.

    Spaces that the tokenizer counts to no token belong to the following one. Tokens that it adds
    have no text.
    """
    # A batch of one: see `Tokenizer.encode`.
    backend = tokenizer.backend
    (encoding,) = backend.encode_batch([text], add_special_tokens=add_special_tokens)
    starts: list[int] = []
    end = 0
    for (begin, stop), is_added in zip(encoding.offsets, encoding.special_tokens_mask, strict=True):
        starts.append(end if is_added else min(begin, end))
        end = max(end, stop)
    return PromptText(text, tuple(starts))
