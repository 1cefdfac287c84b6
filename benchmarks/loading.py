"""How long training waits for its batches: on the Demo corpus, and on a synthetic one of 20,000 clips of 256 frames.

The first table is the loop's own `train/data_share`, of real runs with two data-loading processes. A slow model hides
slow data, so the second takes the model away: the same loader, sampler and collate feed a step that only sleeps, as
long as a fast machine would compute. Poses come from shards, and from their files beside.
The synthetic clips are hard links to a few files, but rows of their own in the shards: 0.43 MB a clip, 8.5 GB in all.
Run: `python benchmarks/loading.py` (`--clips 64 --steps 3` to try it).
"""

import argparse
import json
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import yaml

from uni_sign.commands.prepare import prepare
from uni_sign.config import TrainConfig
from uni_sign.data.demo import generate
from uni_sign.data.wholebody import POINTS
from uni_sign.engine.batching import BatchShape, TrainSampler
from uni_sign.engine.data_loading import make_loader
from uni_sign.stages.fine_tuning import FineTuning, FineTuningConfig

FRAMES, DISTINCT, HELD_OUT = 256, 16, 2
BYTES_PER_CLIP = 430_000
BATCH, WORKERS = 8, 2
STEP_SECONDS = (1.0, 0.3, 0.1, 0.05)
LITTLE_SCORING = ("--max_new_tokens", "2", "--num_beams", "1", "--report_to", "none")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--clips", type=int, default=20_000, help="clips of the synthetic corpus")
    parser.add_argument("--steps", type=int, default=20, help="steps of each run")
    parser.add_argument("--folder", type=Path, default=None, help="where to put the corpora (default: temporary)")
    arguments = parser.parse_args()
    root = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        free, needed = shutil.disk_usage(root).free, arguments.clips * BYTES_PER_CLIP
        if free < 1.2 * needed:
            sys.exit(f"{root} has {free / 1e9:.0f} GB free, {needed / 1e9:.0f} are needed: give fewer --clips.")
        generate(root, progress=False)
        synthetic = make_corpus(root, arguments.clips)
        for dataset in ("Demo", synthetic):
            prepare(["--dataset", dataset, "--data_root", str(root), "--num_workers", str(WORKERS)])
        print(f"\nThe loop, {BATCH} clips a step, {WORKERS} data-loading processes, {arguments.steps} steps\n")
        print("| corpus    | share of data loading | with the first step | s a step |\n|---|---|---|---|")
        for name, dataset, flags in (("Demo", "Demo", ("--use_descriptions",)), ("synthetic", synthetic, ())):
            print(f"| {name:<9} | {in_the_loop(root, dataset, flags, arguments.steps)} |")
        print(f"\nA step that sleeps, on the synthetic corpus of {arguments.clips:,} clips\n")
        print(
            "| poses from | " + " | ".join(f"{seconds:g} s a step" for seconds in STEP_SECONDS) + " | clips/s at most |"
        )
        print("|---|" + "---|" * (len(STEP_SECONDS) + 1))
        for name, prepared in (("shards", True), ("files", False)):
            print(f"| {name:<10} | {' | '.join(beside_a_sleep(root, synthetic, prepared, arguments.steps))} |")
    finally:
        shutil.rmtree(root)


def make_corpus(root: Path, clips: int) -> str:
    """Poses as float32, as pose estimators give them; the corpus file's path."""
    folder = root / "dataset" / "Synthetic" / "pose_format"
    folder.mkdir(parents=True)
    names = [f"clip{number:06}" for number in range(clips)]
    rng = np.random.default_rng(0)
    for number, name in enumerate(names):
        path = folder / f"{name}.pkl"
        if number < DISTINCT:
            keypoints, scores = (
                rng.random((FRAMES, 1, POINTS, 2), np.float32),
                rng.random((FRAMES, 1, POINTS), np.float32),
            )
            path.write_bytes(pickle.dumps({"keypoints": list(keypoints), "scores": list(scores)}))
        else:
            path.hardlink_to(folder / f"{names[number % DISTINCT]}.pkl")
    for split, members in (("train", names), ("dev", names[:HELD_OUT]), ("test", names[:HELD_OUT])):
        labels = {name: {"name": name, "video_path": f"{name}.mp4", "text": "Who likes old cups?"} for name in members}
        (root / f"labels.{split}").write_bytes(pickle.dumps(labels))
    content = {
        **{"name": "Synthetic", "language": "English", "pose_dir": "dataset/Synthetic/pose_format"},
        "labels": {split: f"labels.{split}" for split in ("train", "dev", "test")},
    }
    path = root / "synthetic.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def in_the_loop(root: Path, dataset: str, flags: Sequence[str], steps: int) -> str:
    """Shares of a real run, as columns."""
    output = root / f"run_{Path(dataset).stem}"
    run = ["--dataset", dataset, "--data_root", str(root), "--mt5", str(root / "pretrained_weight" / "mt5-demo")]
    run += ["--max_steps", str(steps), "--log_steps", "1", "--batch_size", str(BATCH), "--num_workers", str(WORKERS)]
    run += ["--dtype", "fp32", "--zero_stage", "0", "--hidden_dim", "64", "--output_dir", str(output)]
    command = [sys.executable, "-m", "uni_sign", "train", "fine_tuning", *run, *flags, *LITTLE_SCORING]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    records = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    logged = [record for record in records if "train/data_share" in record]
    seconds = np.array([BATCH / record["train/samples_per_s"] for record in logged])
    waited = seconds * [record["train/data_share"] for record in logged]
    later = waited[1:].sum() / seconds[1:].sum()
    return f"{later:21.2%} | {waited.sum() / seconds.sum():19.2%} | {seconds[1:].mean():8.2f}"


def beside_a_sleep(root: Path, dataset: str, prepared: bool, steps: int) -> list[str]:
    """Share of waiting for each length of a step, and the loader's own speed."""
    stage = FineTuning(
        FineTuningConfig(dataset=dataset, data_root=root, mt5=str(root / "pretrained_weight/mt5-demo")), 0
    )
    if not prepared:
        stage.corpora[0] = replace(stage.corpora[0], prepared_dir=root / "none")
    datasets = stage.build_datasets()
    train = datasets.splits["train"]
    config = TrainConfig(num_workers=WORKERS, batch_size=BATCH)
    columns = []
    for seconds in (*STEP_SECONDS, 0):
        sampler = TrainSampler(train.sizes, BatchShape(BATCH, 1, 1), 0, 0, datasets.make_key)
        batches = iter(make_loader(config, train, datasets, sampler, persistent=False))
        next(batches)  # the processes' start
        start, slept = time.perf_counter(), 0.0
        count = len(list(islice(batches, steps if not seconds else 0)))
        for _ in range(steps if seconds else 0):
            before = time.perf_counter()
            time.sleep(seconds)
            slept += time.perf_counter() - before
            if next(batches, None) is None:
                break
        taken = time.perf_counter() - start
        columns.append(f"{1 - slept / taken:.2%}" if seconds else f"{count * BATCH / taken:,.0f}")
    return columns


if __name__ == "__main__":
    main()
