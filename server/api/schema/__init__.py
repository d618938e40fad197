"""What all schemas are made of, and where in a body an error is. Knows no endpoint."""
