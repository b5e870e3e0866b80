"""The inter-frame mask: changed tiles, and the rectangles that cover them."""
