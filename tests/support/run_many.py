"""Run many command lines in this one process: what each gives, as a line of JSON. Started with a JSON list on stdin."""

import contextlib
import io
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from support.command_line import ROOT


@dataclass
class Ran:
    """A command line that was run.

    Attributes:
        code: its exit code; None where it raised, or the process ended in it.
        text: what it printed, and the stack of what it raised.
        seconds: of the processor's time, that of its child processes aside.
    """

    arguments: list[str]
    code: int | None
    text: str
    seconds: float


def run_many(lines: Sequence[Sequence[str]], folder: Path) -> list[Ran]:
    """Run the command lines in turn, in one new process in this folder; torch is imported once for all of them."""
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests", folder)))
    command = [sys.executable, str(Path(__file__))]
    settings = dict(cwd=folder, env={**os.environ, "PYTHONPATH": paths}, timeout=1200)
    done = subprocess.run(command, input=json.dumps(lines), capture_output=True, text=True, **settings)
    ran = [Ran(**json.loads(line)) for line in done.stdout.splitlines()]
    missing = lines[len(ran) :]
    return ran + [Ran(list(line), None, f"the process ended ({done.returncode}): {done.stderr}", 0) for line in missing]


def _run_here(lines: Sequence[list[str]]) -> Iterator[dict[str, object]]:
    from experiments.launch.cli import run

    for arguments in lines:
        text, code, start = io.StringIO(), None, time.process_time()
        with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
            try:
                code = run(arguments)
            except BaseException:
                traceback.print_exc()
        yield dict(arguments=arguments, code=code, text=text.getvalue(), seconds=time.process_time() - start)


if __name__ == "__main__":
    del sys.path[0]  # this folder
    for made in _run_here(json.load(sys.stdin)):
        print(json.dumps(made), flush=True)
