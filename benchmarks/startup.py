"""A corpus of many label entries: how long until the first optimizer step, and how much memory a process takes.

    python benchmarks/startup.py --entries 200000

Labels are a pickle as the corpora have them; pose files are links to a few of the Demo's, so that each can be read.
"""

import argparse
import gzip
import os
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import yaml

from uni_sign.data.demo import generate

_LINKS = 50_000  # to one file: ext4 allows 65,000
ROOT = Path(__file__).resolve().parents[1]


def make_corpus(root: Path, entries: int) -> Path:
    """A corpus file whose training split has so many clips, each with a sentence of its own."""
    generate(root, train=12, dev=4, test=4, isolated_per_sign=0, progress=False)
    folder = root / "dataset" / "Demo" / "pose_format"
    sources = [path.read_bytes() for path in sorted(folder.glob("train-*.pkl"))]
    poses = root / "poses"
    poses.mkdir()
    labels = {}
    for number in range(entries):
        name = f"clip-{number:08d}"
        if number % _LINKS == 0:
            first = poses / f"{name}.pkl"
            first.write_bytes(sources[number // _LINKS % len(sources)])
        else:
            os.link(first, poses / f"{name}.pkl")
        text = f"今天第{number}次，我们在学校说：number {number} is the one."
        labels[name] = {"name": name, "video_path": f"{name}.mp4", "text": text, "gloss": ["今天", str(number)]}
    for path in folder.glob("[dt]e[vs]*.pkl"):
        os.link(path, poses / path.name)
    (root / "labels.train").write_bytes(gzip.compress(pickle.dumps(labels), 1))
    files = {"train": "labels.train", "dev": "data/Demo/labels.dev", "test": "data/Demo/labels.test"}
    corpus = root / "many.yaml"
    corpus.write_text(yaml.safe_dump({"name": "Many", "language": "Chinese", "labels": files, "pose_dir": "poses"}))
    return corpus


def started(root: Path, corpus: Path, *flags: str) -> tuple[float, float]:
    """Seconds until the first step is logged, and the most memory of a process in GB, by then."""
    words = [sys.executable, str(ROOT / "fine_tuning.py"), "--dataset", str(corpus), "--data_root", str(root)]
    words += ["--mt5", str(root / "pretrained_weight" / "mt5-demo"), "--max_steps", "1", "--log_steps", "1"]
    log = root / "run" / "log.jsonl"
    words += ["--hidden_dim", "16", "--dtype", "fp32", "--zero_stage", "0", "--output_dir", str(log.parent), *flags]
    begin, most = time.monotonic(), 0.0
    with (root / "said.txt").open("w") as said, subprocess.Popen(words, stdout=said, stderr=said) as process:
        while not (log.is_file() and "train/loss" in log.read_text()):
            if process.poll() is not None:
                sys.exit((root / "said.txt").read_text())
            own = psutil.Process(process.pid)
            most = max(most, own.memory_info().rss / 1e9)
            time.sleep(0.02)
        seconds = time.monotonic() - begin
        process.kill()
    subprocess.run(["rm", "-r", str(log.parent)], check=True)
    return seconds, most


def main() -> None:
    """Print the figures of a small corpus and of the large one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=3)
    config = parser.parse_args()
    print(f"{'entries':>10}{'start':>8}{'first step after':>20}{'memory':>12}")
    for entries in (1000, config.entries):
        with tempfile.TemporaryDirectory() as folder:
            corpus = make_corpus(Path(folder), entries)
            runs = [started(Path(folder), corpus, "--num_workers", "0") for _ in range(config.repeats)]
        for start, (seconds, most) in zip(("first", *["again"] * len(runs)), runs, strict=False):
            print(f"{entries:>10,}{start:>8}{seconds:>18.1f} s{most:>9.2f} GB", flush=True)


if __name__ == "__main__":
    main()
