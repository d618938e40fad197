"""Who may come in, from where, how many at a time; what every answer carries."""
