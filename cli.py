"""`skipvsr`: the composition root. Work in progress."""


def main() -> int:
    """Entry point."""
    return 0
