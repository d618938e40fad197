"""From settings to a running model. `model.py` is the way through; the other files are its
steps."""
