"""`glidecape eval`: the paper's figures for a draft, on this machine."""
