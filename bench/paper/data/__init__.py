"""The evaluation sets: fetched, read, and compared with what a draft was trained on."""
