"""Where the released gates with their expected residuals are."""

import os
from pathlib import Path

from helpers.places import SHARED

FOLDER = Path(os.environ.get("CPE_PARITY", SHARED / "parity"))
