"""The store: Ceph's S3 gateway over one monitor and one object store daemon, all in one folder, for one machine.

The order is Ceph's own for a first start by hand: keyring, monitor map, monitor, object store daemon, gateway, user.
"""

import json
import subprocess
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from stack.keys import USER, Keys, write_private
from stack.processes import Service
from stack.settings import LOOPBACK, Settings, StackError, clean_environment
from stack.system import READY, has_data
from wording.foreign import told

COMMAND_TIMEOUT_S = 120
CONFIGURATION = """\
# Written at every start.
[global]
fsid = {fsid}
mon host = v2:{host}:{ceph_port}
public addr = {host}
cluster addr = {host}
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
keyring = {folder}/keyring
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd crush chooseleaf type = 0
mon allow pool size one = true
mon data avail warn = 2
mon data avail crit = 1
crash dir = {folder}/crash
run dir = {folder}
admin socket =
pid file =
log file =
log to stderr = true
err to stderr = true
mon cluster log to file = false
mon cluster log to stderr = false
debug rocksdb = 0
[mon]
mon data = {folder}/mon
[osd]
osd data = {folder}/osd
bluestore block size = {block_bytes}
[client.rgw]
rgw data = {folder}/rgw
rgw frontends = beast endpoint={host}:{s3_port}
"""
CAPABILITIES = {
    "mon.": ("--cap", "mon", "allow *"),
    "client.admin": ("--cap", "mon", "allow *", "--cap", "osd", "allow *", "--cap", "mgr", "allow *"),
    "client.rgw": ("--cap", "mon", "allow rw", "--cap", "osd", "allow rwx"),
    "osd.0": ("--cap", "mon", "allow profile osd", "--cap", "osd", "allow *"),
}


class Ceph:
    """A cluster of one machine.

    Args:
        settings: folders and ports.
        answers: whether an address answers over HTTP.
    """

    def __init__(self, settings: Settings, answers: Callable[[str], bool]) -> None:
        self.settings = settings
        self.folder = settings.root / "ceph"
        self.configuration = self.folder / "ceph.conf"
        self.environment = clean_environment()
        host = LOOPBACK
        self.monitor = self._service(
            "ceph-mon",
            ("ceph-mon", "-f", "-i", "a"),
            lambda: self._run("ceph", "--connect-timeout", "5", "quorum_status", check=False) != "",
            address=f"{host}:{settings.ceph_port}",
            ports={"CPE_STACK_CEPH_PORT": settings.ceph_port},
        )
        self.daemon = self._service("ceph-osd", ("ceph-osd", "-f", "-i", "0"), self._daemon_is_up)
        self.gateway = self._service(
            "radosgw",
            ("radosgw", "-f", "-n", "client.rgw"),
            lambda: answers(settings.s3_url),
            address=settings.s3_url,
            ports={"CPE_STACK_S3_PORT": settings.s3_port},
        )

    @property
    def services(self) -> tuple[Service, ...]:
        """Its processes in the order of their start."""
        return self.monitor, self.daemon, self.gateway

    def prepare(self, service: Service) -> None:
        """Does what must be done before a service starts, and makes its data when it has none.

        Raises:
            StackError: one of Ceph's own commands failed.
        """
        if service is self.monitor:
            self._prepare_monitor()
        elif service is self.daemon and not has_data(self.folder / "osd"):
            self._make_daemon()

    def with_keys(self, keys: Keys) -> Keys:
        """Adds the S3 user's keys; the user is made, with random keys, the first time. The gateway must run.

        Raises:
            StackError: the gateway's database does not answer.
        """
        path = self.folder / "keys"
        if not path.exists():
            command = ("radosgw-admin", "-n", "client.rgw", "user")
            found = self._run(*command, "info", "--uid", USER, check=False)
            found = found or self._run(*command, "create", "--uid", USER, "--display-name", USER)
            write_private(path, json.dumps(json.loads(found)["keys"][0]))
        pair = json.loads(path.read_text())
        return replace(keys, access=pair["access_key"], secret=pair["secret_key"])

    def _prepare_monitor(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        identity = self.folder / "fsid"
        if not identity.exists():
            write_private(identity, str(uuid.uuid4()))
        self.configuration.write_text(
            CONFIGURATION.format(
                fsid=identity.read_text(),
                host=LOOPBACK,
                folder=self.folder,
                ceph_port=self.settings.ceph_port,
                s3_port=self.settings.s3_port,
                block_bytes=self.settings.gib << 30,
            )
        )
        keyring, places = str(self.folder / "keyring"), str(self.folder / "monmap")
        where = f"[v2:{LOOPBACK}:{self.settings.ceph_port}]"
        self._run("monmaptool", "--create", "--clobber", "--addv", "a", where, "--fsid", identity.read_text(), places)
        if has_data(self.folder / "mon"):
            self._run("ceph-mon", "-i", "a", "--inject-monmap", places)  # the port may be another one now
            return
        Path(keyring).unlink(missing_ok=True)
        for name, capabilities in CAPABILITIES.items():
            create = () if Path(keyring).exists() else ("--create-keyring",)
            self._run("ceph-authtool", keyring, *create, "--gen-key", "-n", name, *capabilities)
        self._run("ceph-mon", "-i", "a", "--mkfs", "--monmap", places, "--keyring", keyring)
        (self.folder / "mon" / READY).touch()

    def _make_daemon(self) -> None:
        identity = self.folder / "osd.uuid"
        if not identity.exists():
            write_private(identity, str(uuid.uuid4()))
        self._run("ceph", "osd", "new", identity.read_text())
        self._run("ceph", "auth", "import", "-i", str(self.folder / "keyring"))
        self._run("ceph", "osd", "crush", "add", "osd.0", "1.0", "root=default", "host=here")
        self._run("ceph-osd", "-f", "-i", "0", "--mkfs", "--osd-uuid", identity.read_text())
        (self.folder / "osd" / READY).touch()

    def _daemon_is_up(self) -> bool:
        found = self._run("ceph", "--connect-timeout", "5", "osd", "stat", "-f", "json", check=False)
        return bool(found) and json.loads(found)["num_up_osds"] == 1

    def _run(self, *command: str, check: bool = True) -> str:
        """Runs one of Ceph's commands; returns what it printed, which never goes into a log, since it may be a key."""
        named = (command[0], "-c", str(self.configuration), *command[1:])
        if command[0] in ("ceph-authtool", "monmaptool"):
            named = command
        try:
            done = subprocess.run(
                named, env=self.environment, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise StackError(f"`{' '.join(command[:3])}` does not end; see {self.settings.root / 'logs'}") from None
        if done.returncode != 0:
            if not check:
                return ""
            lines = [line for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"]
            raise StackError(f"`{' '.join(command[:3])}` failed: {told(lines[-1])}")
        return done.stdout

    def _service(
        self,
        name: str,
        command: tuple[str, ...],
        ready: Callable[[], bool],
        *,
        address: str = "",
        ports: dict[str, int] | None = None,
    ) -> Service:
        named = (command[0], "-c", str(self.configuration), *command[1:])
        return Service(name, named, self.environment, ready, address=address, ports=ports or {})
