"""Training by ``--stream``: shards come over HTTP into a small cache, poses are nowhere else, runs stop and go on."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from commands import ROOT, SMALL, launcher, losses, shell

from uni_sign.commands.prepare import prepare
from uni_sign.data.shards import Shards


class Server(NamedTuple):
    """A corpus whose poses are at ``url`` alone; what is asked for there is counted, and can be answered by errors."""

    root: Path
    url: str
    asked: Counter[str]
    failing: list[int]


@pytest.fixture(scope="module")
def server(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root, asked, failing = tmp_path_factory.mktemp("streamed") / "root", Counter[str](), [0]
    shutil.copytree(demo_root, root)
    for share in range(4):
        words = ("--dataset", "Demo", "--data_root", str(root), "--shard_index", str(share), "--shard_count", "4")
        prepare(words)
    shutil.rmtree(root / "dataset" / "Demo" / "pose_format")
    folder = root.parent / "prepared"
    (root / "dataset" / "Demo" / "prepared").rename(folder)

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if failing[0]:
                failing[0] -= 1
                self.send_error(503)
            else:
                asked[self.path[1:]] += 1
                super().do_GET()

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield Server(root, f"http://127.0.0.1:{http.server_port}", asked, failing)
        http.shutdown()


def train(server: Server, processes: int, output_dir: Path, *more: str, status: int | None = 0) -> str:
    flags = [
        *("--stream", server.url, "--stream_buffer", "1", "--stream_cache", str(output_dir.parent / "cache")),
        *("--zero_stage", "0", "--batch_size", str(4 // processes), "--max_length", "20", "--output_dir"),
    ]
    words = [*launcher("warm", processes), str(ROOT / "fine_tuning.py"), *SMALL, *flags, str(output_dir), *more]
    done = shell(words, cwd=server.root, status=status)
    return done.stdout + done.stderr


def test_any_number_of_processes_streams_the_same_epochs(server: Server, tmp_path: Path) -> None:
    server.asked.clear()
    shards = Shards(server.root.parent / "prepared")
    one = train(server, 1, tmp_path / "one" / "run", "--num_workers", "2")
    assert f"Poses from prepared shards in {server.url}: 12 of 12 train, 4 of 4 dev, 5 of 5 test clips." in one
    # The cache held all: one process fetched each shard for all.
    assert server.asked == Counter({path.name: 1 for path in shards.files} | {"shards.index": 1})
    server.asked.clear()
    train(server, 2, tmp_path / "two" / "run", "--num_workers", "1")
    assert server.asked == Counter({path.name: 1 for path in shards.files} | {"shards.index": 2})
    assert losses(tmp_path / "two" / "run") == pytest.approx(losses(tmp_path / "one" / "run"), abs=1e-3)
    rows = [(tmp_path / run / "run" / "predictions_test.jsonl").read_text() for run in ("one", "two")]
    assert rows[0] == rows[1]


def test_a_stopped_run_goes_on_over_a_network_that_fails_at_times(server: Server, tmp_path: Path) -> None:
    whole, resumed = tmp_path / "whole" / "run", tmp_path / "resumed" / "run"
    train(server, 1, whole, "--save_steps", "2", "--save_total_limit", "9", "--epochs", "1")
    server.failing[0] = 2
    middle = str(whole / "checkpoints" / "step_00000002")
    train(server, 1, resumed, "--resume", middle, "--epochs", "1", "--num_workers", "1")
    assert server.failing == [0]
    assert len(losses(whole)) == 3
    assert losses(resumed) == losses(whole)[2:]
    assert (resumed / "predictions_test.jsonl").read_text() == (whole / "predictions_test.jsonl").read_text()


def test_a_cache_that_is_too_small_is_said_before_training(server: Server, tmp_path: Path) -> None:
    said = train(server, 1, tmp_path / "small" / "run", "--stream_cache_gb", "0.001", status=2)
    assert "--stream_cache_gb 0.001" in said
    assert "Traceback" not in said
