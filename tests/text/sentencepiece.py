"""Small tokenizers of the sentencepiece family, as Llama 2 and Mistral have them."""

from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as BackendTokenizer

from server.text.tokenizer import Tokenizer

_PIECES = ["▁", "a", "b", "é", "你", "▁a", "▁b", "ab", "▁▁", "▁ab", "\n", "🙂"]
_MERGES = [("▁", "a"), ("▁", "b"), ("a", "b"), ("▁", "▁"), ("▁", "ab")]
NUM_BYTES = 256


def _backend(with_bytes: bool) -> BackendTokenizer:
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(NUM_BYTES)] if with_bytes else []
    vocab = {token: index for index, token in enumerate([*byte_tokens, *_PIECES])}
    backend = BackendTokenizer(
        models.BPE(vocab=vocab, merges=_MERGES, byte_fallback=with_bytes, fuse_unk=True)
    )
    backend.add_special_tokens([AddedToken("</s>", special=True)])
    return backend


def byte_fallback_tokenizer() -> Tokenizer:
    """Ids 0..255 are raw bytes; one leading space is dropped."""
    backend = _backend(with_bytes=True)
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return Tokenizer(backend)


def metaspace_tokenizer() -> Tokenizer:
    """No raw bytes; the first token's spaces are dropped."""
    backend = _backend(with_bytes=False)
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    return Tokenizer(backend)


def id_of(tokenizer: Tokenizer, token: str) -> int:
    token_id = tokenizer.backend.token_to_id(token)
    assert token_id is not None, token
    return token_id
