"""run.py of an installed package: `python -m experiments`; by this folder's path, it starts a run's own process."""

import sys
from pathlib import Path

if not __package__:  # started by its path: as for run.py, imports begin in the folder around this one
    del sys.path[0]
    around = Path(__file__).resolve().parent.parent
    if (around / "run.py").is_file() or str(around) not in sys.path:  # a checkout comes before PYTHONPATH's
        sys.path.insert(0, str(around))

from experiments.launch.cli import main

if __name__ == "__main__":
    main()
