"""Models: catalogue, loading, user models, and the cache of loaded models."""
