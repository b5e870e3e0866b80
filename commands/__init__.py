"""The commands of `skipvsr`, one module each; `cli` parses their arguments."""
