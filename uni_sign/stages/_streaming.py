"""Poses by ``--stream``: what is there is what the index says, and training reads few shards at a time."""

from pathlib import Path
from typing import Any

import numpy as np

from uni_sign.data.samples import Samples
from uni_sign.data.shards import UNREADABLE, Shards
from uni_sign.data.signs import SignDataset
from uni_sign.data.splits import Split, read_split
from uni_sign.data.streaming import ReadAhead, Stream
from uni_sign.errors import InputError
from uni_sign.stages.base import Nearby

# The stage that imports this module: a stage that its helpers imported would be a circle.
Translation = Any


def opened_stream(stage: Translation) -> Stream | None:
    """The shards of ``--stream``, their index read."""
    config = stage.config
    if not config.stream:
        return None
    if len(stage.corpora) > 1:
        raise InputError("--stream holds the poses of one corpus: name one with --dataset.")
    cache = Path(config.stream_cache) if config.stream_cache else config.data_root / ".cache" / "stream"
    return Stream(config.stream, cache, int(config.stream_cache_gb * 1e9))


def streamed_split(stage: Translation, shards: Shards, split: str, videos: bool) -> Split:
    """The clips of a split that the shards hold; raises InputError where there is none."""
    task, [corpus] = stage.config.task, stage.corpora
    found = read_split(corpus, task, split, videos, shards.states())
    rows = shards.locate(found.samples)
    usable = Samples(found.samples[place] for place in np.flatnonzero(rows != UNREADABLE).tolist())
    problems = [*found.problems, *shards.problems(found.samples)]
    if not len(usable):
        raise InputError(f"No usable clip in split {split!r} of {corpus.name}: {problems[0]}")
    return Split(usable, problems)


def check_stream(stage: Translation) -> None:
    """Refuses a cache that training or scoring would fetch the same shards into again and again."""
    stream, shards = stage.stream, stage.shards
    if stream is None or shards is None:
        return
    needs = {}
    for name, split in stage.splits.items():
        sizes = [stream.sizes[file] for file in np.unique(shards.file_of[shards.locate(split.samples)])]
        # In training two pools overlap, and one shard more is on its way.
        needs[name] = (2 * stage.config.stream_buffer + 1) * max(sizes) if name == "train" else sum(sizes)
        needs[name] = min(needs[name], sum(sizes)) + max(stream.sizes)
    name = max(needs, key=lambda split: needs[split])
    if needs[name] > stream.limit:
        raise InputError(
            f"--stream_cache_gb {stage.config.stream_cache_gb:g} is too little for split {name!r} with "
            f"--stream_buffer {stage.config.stream_buffer}: give at least {needs[name] / 1e9:.3f}"
            f"{', or a smaller buffer' if name == 'train' else ''}."
        )


def nearby(stage: Translation, train: SignDataset) -> Nearby | None:
    """Where the training clips lie, and who fetches their shards in time; None where all are at hand."""
    if stage.stream is None or stage.shards is None:
        return None
    file_of = stage.shards.file_of[train.rows]
    return Nearby(file_of, stage.config.stream_buffer, ReadAhead(stage.stream, file_of))
