"""Finding, converting and loading checkpoints. Knows files and formats, not how a model runs."""
