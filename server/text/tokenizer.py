"""The model's tokenizer: text to ids, and ids to exact bytes.

Built on the `tokenizers` library; transformers is only used to read the many file layouts. Knows
nothing about chats (`chat_template.py`) or streams (`detokenizer.py`).
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer as BackendTokenizer

from server.errors import CheckpointError, UnsupportedModelError
from server.memory import give_back_memory
from server.text.token_bytes import TokenBytes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

LONG_TEXT = 16_384
"""Characters from which encoding takes milliseconds: callers with other work use a thread."""

_HUGE_TEXT = 262_144
"""Characters from which what encoding leaves behind in the allocator is worth its return."""

_TOKENS_AT_CUT = 64

_GENERIC_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""What tokenizer_config.json calls transformers' class of that name; the second is its new name."""

_MAX_SHRINK = 3
"""How many times shorter a normaliser makes a text: NFC writes nine bytes of Korean letters in
three."""


class Tokenizer:
    """Encodes prompts and knows each token's bytes.

    Args:
        backend: The fast tokenizer. Its truncation and padding are switched off: a server must
            see the whole prompt, to refuse it when it is too long.
        eos_id: Token with which a text ends, if the tokenizer names one; a chat model may end its
            turns with others.
        bos_id: Token with which a text begins, if the model has one.
    """

    def __init__(
        self, backend: BackendTokenizer, eos_id: int | None = None, bos_id: int | None = None
    ) -> None:
        backend.no_truncation()
        backend.no_padding()
        self.backend = backend
        self.token_bytes = TokenBytes(backend)
        self.eos_id = eos_id
        self.bos_id = bos_id
        added = backend.get_added_tokens_decoder()
        self.special_ids = frozenset(token for token, entry in added.items() if entry.special)
        shrink = 1 if backend.normalizer is None else _MAX_SHRINK
        self.max_bytes_per_token = shrink * self.token_bytes.longest
        """UTF-8 bytes of a text that one token can take at most."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        if len(text) < LONG_TEXT:
            return self.backend.encode(text, add_special_tokens=add_special_tokens).ids
        # The library holds the GIL while it encodes one text, but not while it encodes a batch;
        # short texts don't go through its thread pool, which would have to wait for a core.
        token_ids = self.backend.encode_batch([text], add_special_tokens=add_special_tokens)[0].ids
        if len(text) >= _HUGE_TEXT:
            give_back_memory()
        return token_ids

    def has_more_tokens(self, text: str, limit: int) -> bool:
        """Whether a long text certainly has more tokens than that. Reads no more of it than is
        needed to know.

        A text that is cut can have more tokens than the whole one, by a few at each cut: a word is
        split. Those are not counted.
        """
        num_tokens = 0
        for start in range(0, len(text), LONG_TEXT):
            piece = text[start : start + LONG_TEXT]
            (encoding,) = self.backend.encode_batch_fast([piece], add_special_tokens=False)
            num_tokens += max(0, len(encoding.ids) - _TOKENS_AT_CUT)
            if num_tokens > limit:
                return True
        return False

    def vocabulary_string(self, token_id: int) -> str:
        """A token as the vocabulary writes it ("Ġworld"); empty for one that it doesn't have."""
        return self.backend.id_to_token(token_id) or ""

    def ids_of(self, tokens: Iterable[str]) -> frozenset[int]:
        """Ids of those of these texts that are one token each."""
        ids = (self.backend.token_to_id(token) for token in tokens)
        return frozenset(token_id for token_id in ids if token_id is not None)

    def token_string(self, token_id: int) -> str:
        """A token for people. Part of a character is shown as OpenAI does: `bytes:\\xf0\\x9f`."""
        raw = self.token_bytes(token_id)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def load_hf_tokenizer(folder: Path) -> "PreTrainedTokenizerFast":
    """Reads a tokenizer from a local folder in Hugging Face's layout; never touches the network.

    Raises:
        CheckpointError: the folder has no readable tokenizer.
        UnsupportedModelError: the model has no fast tokenizer.
    """
    # transformers takes seconds to import; `glidecape --help` must not wait for it.
    from transformers import PreTrainedTokenizerFast
    from transformers.utils import logging as its_logging

    # Its own handler writes to stderr directly, and blocks where the reader has stopped.
    its_logging.disable_default_handler()
    its_logging.enable_propagation()
    try:
        loaded = _reader(folder).from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(folder, f"no readable tokenizer: {reason}") from error
    if not isinstance(loaded, PreTrainedTokenizerFast):
        raise UnsupportedModelError(f"{type(loaded).__name__} is not a fast tokenizer")
    return loaded


def _reader(folder: Path) -> Any:
    """The class that reads a folder's tokenizer.

    Where the folder names the generic fast class, that is what AutoTokenizer takes too; but on the
    way there it imports the model's code, and with it torch's compiler: 170 MB that nothing uses.
    """
    from transformers import PreTrainedTokenizerFast

    try:
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        is_generic = settings["tokenizer_class"] in _GENERIC_CLASSES
    except (OSError, ValueError, LookupError, TypeError):
        is_generic = False
    if is_generic and (folder / "tokenizer.json").is_file():
        return PreTrainedTokenizerFast
    from transformers import AutoTokenizer

    return AutoTokenizer


def from_hf(loaded: "PreTrainedTokenizerFast") -> Tokenizer:
    """Wraps a transformers tokenizer."""
    backend = loaded.backend_tokenizer
    return Tokenizer(backend, _id_of(backend, loaded.eos_token), _id_of(backend, loaded.bos_token))


def _id_of(backend: BackendTokenizer, token: object) -> int | None:
    # transformers' ids of special tokens are typed as almost anything; the token is a string.
    return backend.token_to_id(token) if isinstance(token, str) else None
