"""Errors of the commands themselves."""


class CommandError(Exception):
    """A command cannot do its work; the message is the one line for the user, with the remedy."""
