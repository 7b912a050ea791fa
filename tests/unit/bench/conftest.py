"""The benches are no part of the installed package: make them importable, after everything else."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[3]))
