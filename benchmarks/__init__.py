"""Scripts that measure, print a table and write JSON."""
