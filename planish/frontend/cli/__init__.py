"""The command line: `planish COMMAND ...`. One file for each command, loaded when it is needed."""

from planish.frontend.cli.entry import main

__all__ = ["main"]
