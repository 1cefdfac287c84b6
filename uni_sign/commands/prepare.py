"""`uni-sign prepare`: a corpus's pose files to shards that training maps into memory, and a report of its faults."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from functools import partial
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from uni_sign.config import at_least, between, flag, parse_flags
from uni_sign.data.arrow_shards import ABSENT, OUTDATED, UNREADABLE
from uni_sign.data.corpora import SPLITS, Corpus, default_corpus, load_corpus
from uni_sign.data.crop_shards import SCHEMA as CROP_SCHEMA
from uni_sign.data.crop_shards import CropShards, crop_row_of
from uni_sign.data.pose_facts import SHORT, FactLog, facts_of, known_facts, read_clip
from uni_sign.data.samples import Sample, Samples, fingerprint
from uni_sign.data.shard_index import write_index
from uni_sign.data.shard_writer import ShardWriter, remove_leftovers, row_of
from uni_sign.data.shards import Shards
from uni_sign.data.splits import Split, read_split
from uni_sign.errors import InputError, RunError

_SHOWN = 10


# Converts the clips at these places as the named share; yields after each.
Converted = Callable[[Sequence[int], str], Iterator[None]]


@dataclass(frozen=True)
class PrepareConfig:
    """The flags of preparing."""

    dataset: str = flag("", "corpus by name or YAML file; default: CSL_Daily where its files are, else Demo")
    data_root: Path = flag(Path("."), "folder that holds data/ and dataset/")
    num_workers: int = flag(1, "processes that convert on this machine", check=between(1, 256))
    shard_index: int = flag(
        -1, "which share of the clips is this process's, from 0; -1: as launcher or Slurm array say"
    )
    shard_count: int = flag(0, "shares in all; 0: as launcher or Slurm array say", check=at_least(0))
    crops: bool = flag(False, "also cut the hands out of the videos once, for runs with --rgb_support")
    crop_quality: int = flag(
        95,
        "JPEG quality of these crops; 0: pixels as they are, exact and several times as large",
        check=between(0, 100),
    )
    report: bool = flag(False, "examine every clip, and write report.html and report.json of what is wrong")
    report_dir: str = flag("", "folder of the report; default: report, in the folder of the shards")
    shard_mb: int = flag(512, "megabytes of a shard, which is what a kill can cost", check=at_least(1))

    def conflicts(self) -> str | None:
        """What does not go together, in one sentence."""
        if (self.shard_index >= 0) != (self.shard_count > 0):
            return "--shard_index and --shard_count go together"
        if self.shard_index >= max(1, self.shard_count):
            return f"--shard_index {self.shard_index} is not below --shard_count {self.shard_count}: count from 0"
        if self.report_dir and not self.report:
            return "--report_dir needs --report"
        return None


@dataclass(frozen=True)
class SplitSummary:
    """Clips of a split: in shards, unreadable, without a usable file or label, still to do; frames; short clips."""

    prepared: int
    unreadable: int
    unusable: int
    pending: int
    frames: int
    short: int


def prepare(argv: Sequence[str]) -> int:
    """Run the command; status 0 once this process's share is done, unreadable clips being recorded as such."""
    [config] = parse_flags(argv, PrepareConfig, program="uni-sign prepare")
    index, count = share_of(config, os.environ)
    corpus = _corpus(config)
    splits = read_splits(corpus)
    ordered, split_of = _in_order(splits)
    rows = Shards(corpus.shard_dir).locate(ordered)
    report_dir = (
        (Path(config.report_dir) if config.report_dir else corpus.shard_dir / "report") if config.report else None
    )
    known = known_facts(report_dir / "facts") if report_dir else {}
    examined = np.array([report_dir is None or fingerprint(sample) in known for sample in ordered], bool)
    # By its place among all clips, whatever is done: processes that start apart must not disagree.
    mine = [place for place in range(index, len(ordered), count) if rows[place] < 0 or not examined[place]]
    print(
        f"{corpus.name}: {len(ordered)} clips in {corpus.pose_dir}, {int((rows >= 0).sum())} of them prepared; "
        f"share {index + 1} of {count} has {len(mine)} to do."
    )
    if mine:
        work = _Work(
            corpus.shard_dir,
            report_dir and report_dir / "facts",
            ordered,
            split_of,
            rows,
            examined,
            config.shard_mb << 20,
        )
        convert(partial(_converted, work), mine, index, count, config.num_workers)
    shards = Shards(corpus.shard_dir)
    summaries = {name: summarize(split, shards) for name, split in splits.items()}
    if not any(summary.pending for summary in summaries.values()):
        remove_leftovers(corpus.shard_dir)
        write_index(corpus.shard_dir)
    _show(summaries, splits, shards)
    if config.crops:
        _prepare_crops(corpus, config, index, count)
    if report_dir:
        from uni_sign.commands.report import write_report  # whose pictures take a second to import

        print(write_report(corpus, splits, report_dir))
    return 0


def _in_order(splits: Mapping[str, Split]) -> tuple[Samples, np.ndarray]:
    """All clips, split by split and by name, each where it is first; and the number of the split of each."""
    clips: dict[str, tuple[int, Sample]] = {}
    for number, split in enumerate(splits.values()):
        for sample in split.samples:
            clips.setdefault(sample.pose_path.name, (number, sample))
    ordered = sorted(clips.values(), key=lambda clip: (clip[0], clip[1].pose_path.name))
    return Samples(sample for _, sample in ordered), np.array([number for number, _ in ordered], np.int64)


def _prepare_crops(corpus: Corpus, config: PrepareConfig, index: int, count: int) -> None:
    splits = read_splits(corpus, videos=True)
    clips = {sample.pose_path.name: sample for split in splits.values() for sample in split.samples}
    ordered = Samples(clips[name] for name in sorted(clips))
    rows = CropShards(corpus.crop_dir).locate(ordered)
    mine = [place for place in range(index, len(ordered), count) if rows[place] < 0]
    print(
        f"Hand crops of {len(ordered)} clips with a video in {corpus.video_dir}, {int((rows >= 0).sum())} of them "
        f"there; share {index + 1} of {count} has {len(mine)} to do."
    )

    def cropped(places: Sequence[int], share: str) -> Iterator[None]:
        with ShardWriter(corpus.crop_dir, share, config.shard_mb << 20, CROP_SCHEMA) as writer:
            for place in places:
                row = crop_row_of(ordered[place], config.crop_quality)
                if not (row.problem and rows[place] == UNREADABLE):
                    writer.append(row)
                yield

    if mine:
        convert(cropped, mine, index, count, config.num_workers, "cropping")
    shards = CropShards(corpus.crop_dir)
    rows = shards.locate(ordered)
    size = sum(path.stat().st_size for path in shards.files)
    print(f"Crops of {int((rows >= 0).sum())} clips, {size / 1e9:.2f} GB in {corpus.crop_dir}.")
    said = [f"unreadable: {problem}" for problem in shards.problems(ordered)]
    said += [f"unusable: {problem}" for split in splits.values() for problem in split.problems]
    _tell(said)
    if not (rows == ABSENT).any() and not (rows == OUTDATED).any():
        remove_leftovers(corpus.crop_dir)


class Shared(Protocol):
    """Flags that say which share of the work is this process's."""

    @property
    def shard_index(self) -> int:
        """From 0, or -1."""
        ...

    @property
    def shard_count(self) -> int:
        """Shares in all, or 0."""
        ...


def share_of(config: Shared, environment: Mapping[str, str]) -> tuple[int, int]:
    """(index, count) of this process's share: the flags, else task of a Slurm array times rank of a launcher."""
    if config.shard_count:
        return config.shard_index, config.shard_count
    try:
        number = {
            name: int(environment.get(name, default))
            for name, default in (
                ("RANK", 0),
                ("WORLD_SIZE", 1),
                ("SLURM_ARRAY_TASK_ID", 0),
                ("SLURM_ARRAY_TASK_COUNT", 1),
                ("SLURM_ARRAY_TASK_MIN", 0),
                ("SLURM_ARRAY_TASK_STEP", 1),
            )
        }
    except ValueError as error:
        raise InputError(f"The launcher's variables hold no number ({error}): give --shard_index.") from None
    task = (number["SLURM_ARRAY_TASK_ID"] - number["SLURM_ARRAY_TASK_MIN"]) // max(1, number["SLURM_ARRAY_TASK_STEP"])
    tasks, rank, ranks = number["SLURM_ARRAY_TASK_COUNT"], number["RANK"], number["WORLD_SIZE"]
    if not (0 <= task < tasks and 0 <= rank < ranks):
        raise InputError(
            f"Slurm's task {number['SLURM_ARRAY_TASK_ID']} of {tasks} and rank {rank} of {ranks} name no share: "
            "number the tasks without gaps, or give --shard_index and --shard_count."
        )
    return task * ranks + rank, tasks * ranks


def _corpus(config: PrepareConfig) -> Corpus:
    if config.dataset:
        return load_corpus(config.dataset, config.data_root)
    corpus, said = default_corpus(config.data_root)
    print(said)
    return corpus


def read_splits(corpus: Corpus, videos: bool = False) -> dict[str, Split]:
    """Clips per split, of all tasks together, ``videos``: that have one; raises InputError where there are none."""
    splits: dict[str, Split] = {}
    for name in SPLITS:
        found, failures = [], []
        for task in corpus.tasks:
            try:
                found.append(read_split(corpus, task, name, videos))
            except InputError as error:
                failures.append(error)
        if not found:
            raise failures[0]
        clips = {sample.pose_path.name: sample for split in found for sample in split.samples}
        # What is wrong with a clip for one task only (no glosses, say) is nothing of its poses.
        problems = set.intersection(*(set(split.problems) for split in found))
        splits[name] = Split(Samples(clips.values()), sorted(problems))
    return splits


def summarize(split: Split, shards: Shards) -> SplitSummary:
    """What the shards hold of a split."""
    rows = shards.locate(split.samples)
    frames = shards.frames[rows[rows >= 0]]
    unreadable = int((rows == UNREADABLE).sum())
    return SplitSummary(
        prepared=len(frames),
        unreadable=unreadable,
        unusable=len(split.problems),
        pending=len(rows) - len(frames) - unreadable,
        frames=int(frames.sum()),
        short=int((frames < SHORT).sum()),
    )


def _show(summaries: Mapping[str, SplitSummary], splits: Mapping[str, Split], shards: Shards) -> None:
    names = [field.name for field in fields(SplitSummary)]
    print(f"\n{'split':<10}" + "".join(f"{name:>12}" for name in names))
    for split, summary in summaries.items():
        print(f"{split:<10}" + "".join(f"{getattr(summary, name):>12,}" for name in names))
    size = sum(path.stat().st_size for path in shards.files)
    print(f"\n{len(shards.files)} shards of {size / 1e9:.2f} GB in {shards.folder}; short: below {SHORT} frames.")
    samples = [sample for split in splits.values() for sample in split.samples]
    said = {f"unreadable: {problem}": None for problem in shards.problems(samples)}
    said |= {f"unusable: {problem}": None for split in splits.values() for problem in split.problems}
    _tell(list(said))
    # Not deleted: a run that started before the pose files changed may still map them.
    useless = shards.without(samples)
    if useless:
        named = ", ".join(path.name for path in useless)
        print(f"Shards of none of these clips as they are now, to delete if no other corpus uses them: {named}.")


def _tell(sentences: Sequence[str]) -> None:
    for sentence in sentences[:_SHOWN]:
        print(sentence)
    if len(sentences) > _SHOWN:
        print(f"and {len(sentences) - _SHOWN} more.")


# --- converting --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Work:
    """Of each clip its split's number, and what is done already; ``facts_dir``: None without a report."""

    folder: Path
    facts_dir: Path | None
    samples: Samples
    split_of: np.ndarray
    rows: np.ndarray
    examined: np.ndarray
    shard_bytes: int


def convert(
    converted: Converted, places: Sequence[int], index: int, count: int, workers: int, said: str = "preparing"
) -> None:
    """Run ``converted`` over these clips in ``workers`` processes, with a bar; raises InputError or RunError."""
    if workers == 1:
        for _ in tqdm(converted(places, f"{index}-of-{count}"), said, len(places), unit="clip"):
            pass
        return
    context = multiprocessing.get_context("fork")  # another way would import torch in each process
    # A count for each process: one that is killed must not take a lock with it.
    done, failures = context.RawArray("q", workers), context.SimpleQueue()
    processes = []
    for k in range(workers):
        share = f"{index * workers + k}-of-{count * workers}"
        arguments = (converted, places[k::workers], share, os.getpid(), done, k, failures)
        processes.append(context.Process(target=_convert_share, args=arguments, daemon=True))
    for process in processes:
        process.start()
    with tqdm(desc=said, total=len(places), unit="clip") as bar:
        for process in processes:
            while process.is_alive():
                process.join(0.2)
                bar.update(sum(done) - bar.n)
    if not failures.empty():
        raise InputError(failures.get())
    if any(process.exitcode for process in processes):
        raise RunError("A converting process was ended, perhaps for want of memory: start again to go on.")


def _converted(work: _Work, places: Sequence[int], share: str) -> Iterator[None]:
    """Reads clip by clip, for its row or its facts or both; yields after each.

    A shard's clips are of one split, so that streamed scoring fetches few.
    """
    with ExitStack() as stack:
        writer = stack.enter_context(ShardWriter(work.folder, share, work.shard_bytes))
        log = stack.enter_context(FactLog(work.facts_dir)) if work.facts_dir else None
        for before, place in zip((*places[:1], *places), places, strict=False):
            if work.split_of[before] != work.split_of[place]:
                writer.close()
            sample = work.samples[place]
            reading = read_clip(sample.pose_path)
            if work.rows[place] < 0:
                row = row_of(sample, reading)
                # A clip that was unreadable before is tried anew, but said once.
                if not (row.problem and work.rows[place] == UNREADABLE):
                    writer.append(row)
            if log and not work.examined[place]:
                log.append(sample, facts_of(reading))
            yield


def _convert_share(
    converted: Converted, places: Sequence[int], share: str, parent: int, done: Any, k: int, failures: SimpleQueue[str]
) -> None:
    try:
        for _ in converted(places, share):
            done[k] += 1
            if os.getppid() != parent:  # killed: whoever starts again must not meet us at work
                os._exit(1)
    except InputError as error:
        failures.put(str(error))
