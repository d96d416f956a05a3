"""Speed and memory, beside others; each module is a program: python -m benchmarks.NAME."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow" / "scripts"))
