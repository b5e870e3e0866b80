"""What goes wrong in a command itself; the message is the one line that the user sees."""


class CommandError(Exception):
    """A command can't do what it was asked; the message says why and what to do."""
