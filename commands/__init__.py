"""The commands of `skipvsr`: one module a command, which owns the command's options and its `run`.

A command's module imports only what its `--help` needs; `run` imports the rest. `commands.shared` holds helpers.
"""
