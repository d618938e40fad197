"""`glidecape chat`: the conversation, the terminal, and the client of a server between them."""
