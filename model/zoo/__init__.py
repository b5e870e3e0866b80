"""Models: the catalogue, loading, and users' own weights."""
