"""Tracks beside the video: sound, subtitles, covers, attachments and tags."""
