"""Shared by all tests: the folder of this file on the path, so that `golden_data` is found from every sub-folder."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
