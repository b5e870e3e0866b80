"""The inter-frame mask: changed tiles, and covering rectangles."""
