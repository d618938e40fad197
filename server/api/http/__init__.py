"""The wire: connections and their limits, how the server ends, streams, errors as answers."""
