"""Everything that generates nothing: models, health, tokens, pages, what is not offered."""
