"""JSON schemas as schemas that xgrammar enforces to the letter. Pure."""
