"""The folder of results: rounds are kept as they are measured, figures written from them."""
