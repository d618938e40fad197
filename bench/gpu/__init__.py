"""What a GPU makes of a model's steps, and what it could do at best."""
