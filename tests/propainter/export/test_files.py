"""Exporters leave the process as it was, and tell nobody."""

import subprocess
import sys

from support.command_line import ROOT

QUIET = """
from propainter.export.files import import_openvino
openvino = import_openvino()
import sys
from openvino.tools.ovc import telemetry_utils
print(telemetry_utils.tm.__name__, sys.modules["openvino_telemetry"])
"""


def test_openvino_sends_no_telemetry():
    """Its telemetry forks the process and sends each conversion to its maker."""
    done = subprocess.run([sys.executable, "-c", QUIET], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip().endswith("openvino.tools.ovc.telemetry_stub None")


STREAMS = """
import contextlib, io, logging.config
from propainter.export.files import import_openvino
stream = io.StringIO()
with contextlib.redirect_stderr(stream):
    import_openvino()
logging.config.dictConfig({"version": 1})
print(stream.closed)
"""


def test_openvino_leaves_streams_open():
    """A handler of absl, which it imports, closes what was sys.stderr at its import: pytest's capture."""
    done = subprocess.run([sys.executable, "-c", STREAMS], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["False"]
