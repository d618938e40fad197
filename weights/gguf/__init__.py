"""GGUF files: read, converted into a folder in Hugging Face layout, and kept converted."""
