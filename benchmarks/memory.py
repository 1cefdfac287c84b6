"""What `uni-sign doctor` predicts of a process's peak memory, beside what training then takes.

Five configurations that differ in batch, vocabulary, freezing, ZeRO stage and recomputation, as real runs of three
steps on synthetic clips, all of the greatest length, with an mT5 of 12 + 12 layers and random weights. Measured is the
highest `train/memory_gb` of the run's log: on a CPU the peak of the process's resident memory, on CUDA of what torch
allocated. Exit status 1 where a prediction is off by more than 15 %.
Run: `python benchmarks/memory.py [--only NUMBER]`.
"""

import argparse
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from transformers import MT5Config

from uni_sign.data.demo.describe import all_texts
from uni_sign.models.mt5 import new_mt5

ROOT = Path(__file__).parents[1]
TOKENIZER = ROOT / "tests" / "golden" / "02_tokenizer" / "spiece.model"
CLIPS, FRAMES, WORDS, TEXTS = 8, 128, 16, 4
STEPS, WAIT_S = 3, 1200
TOLERANCE = 0.15
MT5 = {"d_model": 384, "d_kv": 64, "d_ff": 1024, "num_layers": 12, "num_decoder_layers": 12, "num_heads": 6}


@dataclass(frozen=True)
class Case:
    """One configuration: pieces of the vocabulary, processes, and the flags that matter here."""

    pieces: int
    processes: int
    flags: str

    def __str__(self) -> str:
        return f"{self.pieces:,} pieces, {self.processes} process(es), {self.flags}"


CASES = (
    Case(150_016, 1, "--zero_stage 0 --batch_size 4"),
    Case(20_480, 1, "--zero_stage 0 --batch_size 8 --gradient_checkpointing"),
    Case(64_000, 2, "--zero_stage 2 --batch_size 4 --use_descriptions"),
    Case(64_000, 2, "--zero_stage 3 --batch_size 2 --gradient_checkpointing"),
    Case(150_016, 1, "--zero_stage 1 --batch_size 8 --use_descriptions --text_encoder_freeze --fusion_only"),
)


def main() -> int:
    """Print a row a configuration; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", type=int, default=0, help="one configuration by its number; 0: all")
    chosen = parser.parse_args().only
    cases = [CASES[chosen - 1]] if chosen else CASES
    folder = Path(tempfile.mkdtemp())
    try:
        write_corpus(folder)
        print(f"{'predicted':>10}{'measured':>10}{'ratio':>8}  configuration", flush=True)
        ratios = [compare(folder, case) for case in cases]
    finally:
        shutil.rmtree(folder)
    return int(any(abs(ratio - 1) > TOLERANCE for ratio in ratios))


def compare(folder: Path, case: Case) -> float:
    """Predicted over measured peak memory of a process."""
    mt5 = folder / f"mt5-{case.pieces}"
    if not mt5.exists():
        write_mt5(mt5, case.pieces)
    flags = [*case.flags.split(), "--dataset", str(folder / "corpus.yaml"), "--mt5", str(mt5)]
    flags += [
        "--data_root",
        str(folder),
        "--hidden_dim",
        "128",
        "--dtype",
        "bf16" if torch.cuda.is_available() else "fp32",
    ]
    predicted = prediction([*flags, "--processes", str(case.processes), "--output_dir", str(folder / "none")])
    measured = measurement([*flags, "--output_dir", str(folder / "run")], case.processes)
    shutil.rmtree(folder / "run")
    print(f"{predicted:>7.2f} GB{measured:>7.2f} GB{predicted / measured:>8.2f}  {case}", flush=True)
    return predicted / measured


def prediction(flags: list[str]) -> float:
    """What doctor says, in GB."""
    words = [sys.executable, "-m", "uni_sign", "doctor", *flags]
    said = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    found = re.search(r"memory +about ([0-9.]+) GB", said.stdout)
    if not found:
        raise SystemExit(said.stdout + said.stderr)
    return float(found[1])


def measurement(flags: list[str], processes: int) -> float:
    """The peak of rank 0 over the first steps, in GB; the run ends there."""
    launcher = [sys.executable]
    if processes > 1:
        launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}"]
    words = [*launcher, str(ROOT / "fine_tuning.py"), *flags, "--log_steps", "1", "--num_workers", "1"]
    log = Path(flags[flags.index("--output_dir") + 1]) / "log.jsonl"
    environment = {**os.environ, "WANDB_MODE": "disabled"}
    with tempfile.TemporaryFile("w+") as said:
        run = subprocess.Popen(words, stdout=said, stderr=said, env=environment, start_new_session=True)
        try:
            end = time.monotonic() + WAIT_S
            while len(found := peaks(log)) < STEPS and run.poll() is None and time.monotonic() < end:
                time.sleep(0.1)
        finally:
            if run.poll() is None:
                os.killpg(run.pid, signal.SIGKILL)
            run.wait()
        if len(found) < STEPS:
            said.seek(0)
            raise SystemExit(said.read()[-4000:])
    return max(found)


def peaks(log: Path) -> list[float]:
    """`train/memory_gb` of the steps so far."""
    if not log.exists():
        return []
    rows = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
    return [row["train/memory_gb"] for row in rows if "train/memory_gb" in row]


def write_mt5(folder: Path, pieces: int) -> None:
    """An mT5 of random weights with so many pieces, and a tokenizer of fewer."""
    torch.manual_seed(0)
    config = MT5Config(vocab_size=pieces, feed_forward_proj="gated-gelu", **MT5)
    new_mt5(config).save_pretrained(folder)
    shutil.copy(TOKENIZER, folder)


def write_corpus(folder: Path) -> None:
    """Clips of random poses, all equally long, each with a few descriptions, and labels of equally many words."""
    rng = np.random.default_rng(0)
    texts, words = all_texts(), " ".join(all_texts()).split()
    (folder / "poses").mkdir()
    for split, clips in {"train": STEPS * 2 * CLIPS, "dev": 1, "test": 1}.items():
        (folder / split).mkdir()
        labels = {}
        for name in (f"{split}-{i:03d}" for i in range(clips)):
            keypoints = rng.random((FRAMES, 1, 133, 2), np.float32)
            np.savez(
                folder / "poses" / f"{name}.npz", keypoints=keypoints, scores=np.ones((FRAMES, 1, 133), np.float32)
            )
            described = {str(i): str(rng.choice(texts)) for i in range(0, FRAMES, FRAMES // TEXTS)}
            (folder / split / f"{name}.json").write_text(json.dumps(described))
            text = " ".join(rng.choice(words, WORDS))
            labels[name] = {"name": name, "video_path": f"{name}.mp4", "text": text}
        (folder / f"labels.{split}").write_bytes(pickle.dumps(labels))
    corpus = {
        **{"name": "Memory", "language": "English", "pose_dir": "poses", "description_dirs": "{split}"},
        "labels": {split: f"labels.{split}" for split in ("train", "dev", "test")},
        **{"max_length": FRAMES, "max_target_length": 50},
    }
    (folder / "corpus.yaml").write_text(yaml.safe_dump(corpus))


if __name__ == "__main__":
    sys.exit(main())
