"""Source files: opening, seeking, timestamps, side data, deinterlacing."""
