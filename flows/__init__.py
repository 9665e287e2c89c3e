"""Prefect flows and the command line: the order in which tasks run.

By a run's heartbeats others know that it lives (`tasks.watch.runs`). How often they come is set before Prefect is
loaded: here, and in prefect.yaml for what workers run.
"""

import os

os.environ.setdefault("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "30")
