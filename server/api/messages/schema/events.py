"""`/v1/messages`: the events of a stream, each of which says its `type`.

    message_start
        content_block_start  content_block_delta …  content_block_stop     once for each block
    message_delta  message_stop

`ping` may come anywhere in between. `error` may come instead of all that follows.
"""

from typing import Literal

from pydantic import BaseModel

from server.api.generation.schema.common import TokenIdsField
from server.api.generation.schema.speculation import SpeculationField
from server.api.messages.schema.answer import ContentBlock, Message, MessageUsage, StopReason


class MessageStart(BaseModel):
    type: Literal["message_start"] = "message_start"
    message: Message
    """Without content. Its counts are those so far; the last ones come with `message_delta`."""


class BlockStart(BaseModel):
    type: Literal["content_block_start"] = "content_block_start"
    index: int
    content_block: ContentBlock


class TextBlockDelta(BaseModel):
    type: Literal["text_delta"] = "text_delta"
    text: str


class ThinkingBlockDelta(BaseModel):
    type: Literal["thinking_delta"] = "thinking_delta"
    thinking: str


class SignatureDelta(BaseModel):
    """The last of a block of thoughts."""

    type: Literal["signature_delta"] = "signature_delta"
    signature: str


class InputBlockDelta(BaseModel):
    type: Literal["input_json_delta"] = "input_json_delta"
    partial_json: str
    """All of a call's together are the JSON of its input, if the model made no mistake and was not
    cut short."""


class BlockDelta(BaseModel):
    type: Literal["content_block_delta"] = "content_block_delta"
    index: int
    delta: TextBlockDelta | ThinkingBlockDelta | SignatureDelta | InputBlockDelta


class BlockStop(BaseModel):
    type: Literal["content_block_stop"] = "content_block_stop"
    index: int


class StopDelta(BaseModel):
    stop_reason: StopReason
    stop_sequence: str | None


class MessageDelta(BaseModel):
    type: Literal["message_delta"] = "message_delta"
    delta: StopDelta
    usage: MessageUsage
    speculation: SpeculationField = None
    token_ids: TokenIdsField = None


class MessageStop(BaseModel):
    type: Literal["message_stop"] = "message_stop"


class Ping(BaseModel):
    type: Literal["ping"] = "ping"


Event = MessageStart | BlockStart | BlockDelta | BlockStop | MessageDelta | MessageStop | Ping
