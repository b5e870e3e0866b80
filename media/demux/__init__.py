"""Containers: opening, seeking, timestamps, side data."""
