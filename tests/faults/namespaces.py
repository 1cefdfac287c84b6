"""Two machines on one: network namespaces with an address each and a link between them that can be cut."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

PREFIX = "unisign-"
LINK = "link0"
_IP = shutil.which("ip", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin{os.pathsep}/sbin") or ""


def ip(*words: str) -> str:
    """Run the `ip` program; its output."""
    return subprocess.run([_IP, *words], check=True, capture_output=True, text=True).stdout


@dataclass(frozen=True)
class Node:
    """One of the two machines."""

    namespace: str
    address: str

    def inside(self, *command: str) -> list[str]:
        """The command line that runs ``command`` on this machine."""
        return [_IP, "netns", "exec", self.namespace, *command]

    def set_link(self, state: str) -> None:
        """Plug this machine in ("up") or cut it off ("down")."""
        ip("-n", self.namespace, "link", "set", LINK, state)


@contextmanager
def two_nodes() -> Iterator[list[Node]]:
    """Two machines, removed at the end; skips where namespaces cannot be made."""
    if not _IP:
        pytest.skip("needs the `ip` program (package iproute2)")
    _remove_left_over()
    made = [Node(f"{PREFIX}{os.getpid()}-{i}", f"10.77.1.{i + 1}") for i in range(2)]
    try:
        try:
            _connect(made)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces can be made here: {error.stderr.strip()}")
        yield made
    finally:
        for node in made:
            _remove(node.namespace)


def _connect(made: list[Node]) -> None:
    for node in made:
        ip("netns", "add", node.namespace)
    first, second = (node.namespace for node in made)
    ip("link", "add", LINK, "netns", first, "type", "veth", "peer", "name", LINK, "netns", second)
    for node in made:
        ip("-n", node.namespace, "link", "set", "lo", "up")
        ip("-n", node.namespace, "addr", "add", f"{node.address}/24", "dev", LINK)
        node.set_link("up")


def _remove_left_over() -> None:
    """Remove the namespaces of test runs that were killed: their names hold the id of a process that is gone."""
    folder = Path("/run/netns")
    for path in folder.glob(f"{PREFIX}*-*") if folder.is_dir() else ():
        if not Path("/proc", path.name.split("-")[1]).exists():
            _remove(path.name)


def _remove(namespace: str) -> None:
    """End what still runs in a namespace, and remove it; one that does not exist is fine."""
    pids = subprocess.run([_IP, "netns", "pids", namespace], capture_output=True, text=True).stdout.split()
    for pid in pids:
        try:
            os.kill(int(pid), signal.SIGKILL)
        except ProcessLookupError:
            continue
    subprocess.run([_IP, "netns", "delete", namespace], capture_output=True)
