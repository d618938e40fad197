"""HTTP routes, one module per feature. Each gets its parts through `server/api/deps.py`."""
