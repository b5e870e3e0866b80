"""Sound, subtitles, attachments and tags beside the picture."""
