"""What goes over the wire, as pydantic models: one module per feature."""
