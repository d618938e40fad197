"""OpenAI's HTTP interface over the engine. Never sees a tensor."""
