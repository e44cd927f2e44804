"""The group of commands, and what becomes of errors: one line, and an exit code.

    0 done    1 failed    2 the user's mistake    130 interrupted

Only a bug of ours shows a traceback.
"""

from __future__ import annotations

import difflib
import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import click

from planish import __version__
from planish.frontend.cli.common import examples
from planish.ir.errors import CompileError, PlanishError

# Commands by name, with what `planish --help` says of each; the module has the same name
COMMANDS = {
    "demo": "The whole story in under a minute: train, compile, write, compare, draw.",
    "train": "Train a model on a text.",
    "generate": "Write text with a model.",
    "graph": "Show a model's graph as text or as a picture.",
    "compare": "Measure pipelines side by side on a model.",
    "compress": "Measure how small, fast and accurate recipes make a model.",
    "profile": "Measure each kernel of a model, beside what the machine can do.",
    "bench": "Measure what this machine can do, and our own models on it.",
    "compile": "Write a model as a program that runs without compiling.",
    "inspect": "Say what a compiled program is, and what it needs.",
    "cache": "What is kept of compiled programs.",
    "info": "Say what this machine, or a model, is like.",
}
DONE, FAILED, MISTAKE, INTERRUPTED = 0, 1, 2, 130

# Files that are not there, or not what they should be, are the user's to mend; a full disk is not
_MISTAKES = (
    FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError,
)  # fmt: skip


class Commands(click.Group):
    """Commands that are imported when they are called, so that `--help` is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a module."""
        if cmd_name not in COMMANDS:
            return None
        return import_module(f"planish.frontend.cli.{cmd_name}").command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Suggest what may have been meant."""
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            near = difflib.get_close_matches(args[0], COMMANDS, 1)
            hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(COMMANDS)}"
            ctx.fail(f"no such command {args[0]!r}; {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(
        "planish demo",
        "planish train --text book.txt --steps 2000 --out book.safetensors",
        'planish generate book.safetensors --prompt "Once upon" -n 50',
    ),
)
@click.version_option(__version__, prog_name="planish")
def commands() -> None:
    """A static graph compiler for GPT-class models: trains, compiles and runs them on the CPU."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line, and end the process."""
    warnings.showwarning = warn
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run a command line; the exit code."""
    if sys.stdout is None:  # closed by whoever started us: what is printed goes nowhere
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that lacks a character
    try:
        code = commands.main(list(arguments) or ["--help"], "planish", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else DONE
    except click.Abort:
        return complain("planish", "interrupted", INTERRUPTED)
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "planish"
        return complain(path, f"{error.format_message()} (see {path} --help)", MISTAKE)
    except click.ClickException as error:
        return complain("planish", error.format_message(), MISTAKE)
    except BrokenPipeError:
        return closed_pipe()
    except CompileError as error:
        return complain("planish", str(error), FAILED)
    except PlanishError as error:
        return complain("planish", str(error), MISTAKE)
    except OSError as error:
        told = error.strerror or str(error)
        told = f"{error.filename}: {told}" if error.filename else told
        return complain("planish", told, MISTAKE if isinstance(error, _MISTAKES) else FAILED)
    except MemoryError:
        return complain("planish", "out of memory", FAILED)


def complain(path: str, message: str, code: int) -> int:
    """Tell an error in one line."""
    print(f"{path}: {' '.join(message.split())}", file=sys.stderr)
    return code


def warn(message: Warning | str, *_: object, **__: object) -> None:
    """Tell a warning in one line, not the line of code that it comes from."""
    print(f"planish: warning: {' '.join(str(message).split())}", file=sys.stderr)


def closed_pipe() -> int:
    """Whoever read our output has left; nothing more is written, not even at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return FAILED
