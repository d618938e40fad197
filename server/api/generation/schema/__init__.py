"""Fields that several endpoints take or give."""
