"""What a model writes → text and function calls, piece by piece. Knows no API's JSON shapes."""
