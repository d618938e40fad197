"""The description of the API at /openapi.json: keys, examples, answers, events of streams."""
