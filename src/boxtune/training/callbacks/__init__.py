"""One callback a file."""
