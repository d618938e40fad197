"""What /v1/messages takes and gives."""
