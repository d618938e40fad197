"""A token's logprobs as chats and responses write them."""

from server.api.chat.schema import TokenLogprob, TopLogprob
from server.api.generation.shape.base import MIN_LOGPROB
from server.engine.types import TokenLogprobs
from server.text.tokenizer import Tokenizer


def token_logprob(tokenizer: Tokenizer, chosen: TokenLogprobs) -> TokenLogprob:
    alternatives = [_top(tokenizer, token_id, logprob) for token_id, logprob in chosen.top]
    own = _top(tokenizer, chosen.token_id, chosen.logprob)
    return TokenLogprob(
        token=own.token, logprob=own.logprob, bytes=own.bytes, top_logprobs=alternatives
    )


def _top(tokenizer: Tokenizer, token_id: int, logprob: float) -> TopLogprob:
    return TopLogprob(
        token=tokenizer.token_string(token_id),
        logprob=max(logprob, MIN_LOGPROB),
        bytes=list(tokenizer.token_bytes(token_id)),
    )
