"""`/v1/responses`: conversations of items around the chat pipeline, kept in memory."""
