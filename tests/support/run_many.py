"""Run many command lines in this one process: what each gives, as a line of JSON. Started with a JSON list on stdin."""

import contextlib
import io
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from support.command_line import ROOT


@dataclass
class Ran:
    """A command line that was run.

    Attributes:
        code: its exit code; None where it raised, or the process ended in it.
        text: what it printed, and the stack of what it raised.
    """

    arguments: list[str]
    code: int | None
    text: str
    seconds: float


def run_many(lines: Sequence[Sequence[str]], **popen: object) -> list[Ran]:
    """Run the command lines in turn, in one new process; torch is imported once for all of them."""
    command = [sys.executable, "-m", "support.run_many"]
    done = subprocess.run(command, input=json.dumps(lines), capture_output=True, text=True, **popen)
    ran = [Ran(**json.loads(line)) for line in done.stdout.splitlines()]
    missing = lines[len(ran) :]
    return ran + [Ran(list(line), None, f"the process ended ({done.returncode}): {done.stderr}", 0) for line in missing]


def _run_here(lines: Sequence[list[str]]) -> Iterator[dict[str, object]]:
    from experiments.launch.cli import run

    for arguments in lines:
        text, code, start = io.StringIO(), None, time.monotonic()
        with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
            try:
                code = run(arguments)
            except BaseException:
                traceback.print_exc()
        yield dict(arguments=arguments, code=code, text=text.getvalue(), seconds=time.monotonic() - start)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    for made in _run_here(json.load(sys.stdin)):
        print(json.dumps(made), flush=True)
