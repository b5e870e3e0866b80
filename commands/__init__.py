"""The commands of `skipvsr`: one module per command, with its options and its `run`.

A module imports only the needs of `--help`; `run` imports the rest. `commands.shared` holds helpers.
"""
