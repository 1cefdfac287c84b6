"""Runs forked from a process that has imported everything: what starting takes is paid once a session, not each run.

`warm.py serve ADDRESS` imports, then waits at a Unix socket until its stdin ends. `warm.py run ADDRESS PROCESSES WORDS`
is a command like any other: it starts so many ranks of `python WORDS` with its own folder, environment and output, and
ends with their status. Ranks are processes of their own, of which each can be killed; a launcher there is none.
"""

import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
from pathlib import Path

_MODULES = (
    *(
        "deepspeed.runtime.zero.muon.muon_optimizer",
        "matplotlib.pyplot",
        "rouge_score.rouge_scorer",
        "sacrebleu",
        "uni_sign.engine.loop",
    ),
    *("uni_sign.stages.fine_tuning", "uni_sign.stages.pre_training"),
    *("uni_sign.stages.alignment", "uni_sign.stages.temporal", "uni_sign.stages.skeleton"),
    *("uni_sign.stages.motion_autoencoder", "uni_sign.stages.rectified_flow"),
)


def serve(address: str) -> list[str] | None:
    """Fork the runs that are asked for; returns None at the end, and in a rank the words to run."""
    for name in _MODULES:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no one waits for those who wait for ranks
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{address}.new")
        listener.listen()
        os.rename(f"{address}.new", address)
        while True:
            ready, _, _ = select.select([listener, sys.stdin], [], [])
            if listener not in ready:
                return None
            client, _ = listener.accept()
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                return _start(client)
            client.close()


def _start(client: socket.socket) -> list[str]:
    """Fork the ranks and wait for them; returns in a rank alone, with the words to run."""
    # With the files comes the length of what is asked for.
    length, files, _, _ = socket.recv_fds(client, 8, 2)
    content = b""
    while len(content) < int.from_bytes(length, "little"):
        content += client.recv(1 << 20)
    asked = json.loads(content)
    os.chdir(asked["cwd"])
    with open(os.devnull) as nothing:
        for source, target in ((nothing.fileno(), 0), (files[0], 1), (files[1], 2)):
            os.dup2(source, target)
    for file in files:
        os.close(file)
    os.environ.clear()
    os.environ.update(asked["env"])
    pids = []
    for rank in range(asked["processes"]):
        pids.append(os.fork())
        if pids[-1] == 0:
            client.close()
            if asked["processes"] > 1:
                os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
            words: list[str] = asked["words"]
            return words
    statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    client.sendall((max(statuses, key=abs) % 256).to_bytes(1, "little"))
    os._exit(0)  # taking all the modules down would keep those waiting who read the output


def run(address: str, processes: int, port: str, words: list[str]) -> int:
    """Have it done by the server; the status of the ranks."""
    env = dict(os.environ)
    if processes > 1:
        env |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1"}
        env["MASTER_PORT"] = port
    asked = {"words": words, "processes": processes, "env": env, "cwd": os.getcwd()}
    content = json.dumps(asked).encode()
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        socket.send_fds(server, [len(content).to_bytes(8, "little")], [1, 2])
        server.sendall(content)
        status = server.recv(1)
    return status[0] if status else 1


def become(words: list[str]) -> None:
    """What `python WORDS` does."""
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = words, str(Path(words[0]).parent)
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    if sys.argv[1] == "run":
        sys.exit(run(sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5:]))
    found = serve(sys.argv[2])
    if found is not None:
        become(found)
