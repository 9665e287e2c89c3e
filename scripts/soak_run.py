"""What happens in a soak, one thing after the other."""

import random
import time
from collections import Counter

import httpx
from prefect.client.orchestration import get_client
from soak_checks import BrokenError, Checks
from soak_lists import SoakList
from soak_stack import SoakStack

from tasks.watch.runs import WAITING, WATCHER, runs
from tasks.watch.watcher import DEPLOYMENT

TICK_S = 20.0  # the soak's own ticks, in place of every ten minutes
WAITS_MIN = [0.2, 0.5, 1.0]  # after runs in vain: servers are killed under them
BLOCKED_S = 120 + 60  # two minutes, and a tick that has to begin and to listen
PATIENCE_S = 600.0  # for everything to be as it should be, from the last kill or change on
POLL_S = 3.0
LONG_ABSENCE_S = 150.0  # in which the server forgets which runs it was waiting to hear of


class Soak:
    """One soak.

    Args:
        stack: that runs.
        lists: that it watches.
        rng: of all choices.
        minutes: how long to go on.
    """

    def __init__(self, stack: SoakStack, lists: list[SoakList], rng: random.Random, minutes: float) -> None:
        self.stack, self.lists, self.rng, self.minutes = stack, lists, rng, minutes
        self.checks = Checks(stack, lists, BLOCKED_S)
        self.counts: Counter[str] = Counter()
        self.slowest_s = 0.0
        self.began = time.monotonic()
        self.asked = 0.0

    def run(self) -> None:
        """Goes on until the time is over.

        Raises:
            BrokenError: an invariant does not hold.
            StackError: the stack does not start.
        """
        self.settle()
        while time.monotonic() - self.began < self.minutes * 60:
            listed = self.rng.choice(self.lists)
            self.say("change", f"{listed.name}: {listed.change()}")
            self.counts["changes"] += 1
            while self.rng.random() < 0.6:
                self.disturb()
            self.settle()

    def up(self) -> None:
        """Starts what does not run."""
        self.say("up", f"after {self.stack.up():.0f} s")
        self.checks.after_start()

    def disturb(self) -> None:
        """Lets the system work for a while, kills something, and starts it again, mostly soon."""
        self.tick()
        end = time.monotonic() + self.rng.uniform(0, 60)
        while time.monotonic() < end:
            self.look()
            time.sleep(POLL_S)
        victim = self.stack.choose(self.rng)
        self.say("kill", f"{victim}: {self.stack.kill(victim)} process(es)")
        self.counts[f"kills of {victim}"] += 1
        away = LONG_ABSENCE_S if victim == "everything" and self.rng.random() < 0.3 else self.rng.uniform(0, 15)
        time.sleep(away)
        self.up()

    def settle(self) -> None:
        """Waits until everything is as it should be, and checks all of it.

        Raises:
            BrokenError: it does not become so.
        """
        began = time.monotonic()
        while left := self.checks.unsettled():
            if time.monotonic() - began > PATIENCE_S:
                raise BrokenError(f"after {PATIENCE_S:.0f} s in peace: {'; '.join(left)}")
            self.tick()
            self.look()
            time.sleep(POLL_S)
        took = time.monotonic() - began
        self.slowest_s = max(self.slowest_s, took)
        self.checks.one_version_a_result()
        self.checks.artifacts_are_whole()
        self.counts["times all of it held"] += 1
        self.say("holds", f"after {took:.0f} s, {len(self.checks.verified)} artifacts are whole")

    def look(self) -> None:
        """Checks what must hold at every moment."""
        if not self.stack.runs():
            self.say("ended", "something ended by itself")
            self.up()
        with get_client(sync_client=True) as client:
            self.checks.no_dead_run_blocks(client)
        self.checks.one_version_a_result()

    def tick(self) -> None:
        """Asks for a tick, as the schedule does, if it is time for one and none waits for a worker."""
        if time.monotonic() - self.asked < TICK_S:
            return
        self.asked = time.monotonic()
        parameters = {"lists": [each.name for each in self.lists], "waits_min": WAITS_MIN}
        try:
            with get_client(sync_client=True) as client:
                if any("waits_min" in run.parameters for run in runs(client, WAITING, flow=WATCHER)):
                    return
                deployment = client.read_deployment_by_name(DEPLOYMENT)
                client.create_flow_run_from_deployment(deployment.id, parameters=parameters)
        except httpx.HTTPError as error:  # a busy server; there are more ticks
            self.say("no tick", type(error).__name__)
            return
        self.counts["ticks"] += 1

    def say(self, what: str, more: str) -> None:
        """Prints a line about an event."""
        print(f"{time.monotonic() - self.began:7.1f} s  {what:<7} {more}", flush=True)

    def summary(self) -> None:
        """Prints what happened."""
        print(f"\nin {(time.monotonic() - self.began) / 60:.1f} minutes")
        for name, count in sorted((self.counts + self.checks.counts).items()):
            print(f"{count:6d}  {name}")
        print(f"{self.slowest_s:6.0f}  s at most from the end of the disturbance until all of it held")
        print(f"{self.checks.longest_blocked_s:6.0f}  s at most that a dead run was in the way")
