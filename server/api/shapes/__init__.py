"""How an answer is written: `Progress` → the JSON of one endpoint, streamed and not."""
