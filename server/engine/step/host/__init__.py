"""A step that the host runs stage by stage: draft, expand, verify, accept, commit, stats."""
