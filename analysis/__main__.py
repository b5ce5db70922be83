"""The command line: `python -m analysis --help`."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.commands import bless, check, claims, compare, history, recommend, table
from analysis.errors import InputError

OK, FAILED, USAGE = 0, 1, 2

COMMANDS = {
    "claims": (claims, "the promises of docs/plan.md, each with a verdict"),
    "check": (check, "has output or speed shifted since a baseline: exit 0 fine, 1 regression, 2 not comparable"),
    "bless": (bless, "make a baseline of a sweep"),
    "recommend": (recommend, "the best measured variant within bounds, and its command; exit 1 where nothing fits"),
    "compare": (compare, "two sweeps side by side"),
    "table": (table, "one row a variant, as Markdown or CSV"),
}


def parser() -> argparse.ArgumentParser:
    """Return the whole command line."""
    top = argparse.ArgumentParser(
        prog="python -m analysis",
        description="Reads records: sweep and run folders, record.json, evaluation.json and records.parquet files, "
        "tars of them.",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    report = "one HTML page of it all, with plots and tables beside it"
    made = commands.add_parser("report", help=report, description=report)
    made.add_argument("paths", nargs="+", type=Path, metavar="DIR", help="sweep folders, record files or parquet")
    made.add_argument("-o", "--output", type=Path, metavar="FILE", help="the page; report.html in the first folder")
    made.set_defaults(main=_report)
    over_time = "each variant over commits, torch versions and machines, and where a figure changed"
    made = commands.add_parser("history", help=over_time, description=over_time)
    history.add_arguments(made)
    made.set_defaults(main=_history)
    for name, (module, what) in COMMANDS.items():
        made = commands.add_parser(name, help=what, description=what)
        module.add_arguments(made)
        made.set_defaults(main=module.main)
    return top


def main(given: Sequence[str] | None = None) -> int:
    """Run a command; its exit code, or 2 with one sentence where it was given what can't be used."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    arguments = parser().parse_args([_with_home(text) for text in (sys.argv[1:] if given is None else given)])
    try:
        return arguments.main(arguments)
    except InputError as error:
        print(error, file=sys.stderr)
        return USAGE
    except BrokenPipeError:  # nobody reads on, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        print(f"{error}; check that the file or folder can be written to and has space left.", file=sys.stderr)
        return FAILED


def _with_home(text: str) -> str:
    """Return an argument with `~` as the home, after `--option=` too, where no shell expands it."""
    option, equals, value = text.partition("=") if text.startswith("-") else ("", "", text)
    return option + equals + os.path.expanduser(value)


def _report(arguments: argparse.Namespace) -> int:
    from analysis.report.page import main as write  # brings in matplotlib

    return write(arguments.paths, arguments.output)


def _history(arguments: argparse.Namespace) -> int:
    from analysis.report.history import page  # brings in matplotlib

    return history.main(arguments, page)


if __name__ == "__main__":
    sys.exit(main())
