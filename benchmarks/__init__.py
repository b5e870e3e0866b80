"""Scripts that measure and print a table."""
