"""What all endpoints that generate share: from a request to jobs for the engine, and back."""
