"""`python -m server` is `glidecape`."""

from server.cli import main

main()
