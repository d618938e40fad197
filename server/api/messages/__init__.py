"""`/v1/messages`: Anthropic's Messages API around the chat pipeline."""
