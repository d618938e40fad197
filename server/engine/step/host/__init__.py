"""A step whose stages the host puts in a row: draft, expand, verify, accept, commit, stats."""
