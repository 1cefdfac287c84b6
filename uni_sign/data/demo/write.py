"""Write the Demo corpus in the users' own folders and file formats."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import pickle
import shutil
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from uni_sign.data.demo.describe import FORMS, all_texts, as_json, describe_clip
from uni_sign.data.demo.grammar import LANGUAGES, SPLITS, Clip, plan
from uni_sign.data.demo.lexicon import SIGNS
from uni_sign.data.demo.motion import Motion, animate
from uni_sign.data.demo.mt5 import write_mt5
from uni_sign.data.demo.video import write_video
from uni_sign.errors import InputError

_CONTENT_VERSION = 5
_MARKER = "dataset/Demo/COMPLETE.json"
_POSES = "dataset/Demo/pose_format"
_VIDEOS = "dataset/Demo/rgb_format"
_LABELS = "data/Demo"
_DESCRIPTIONS = "description/Demo/split_data"
_MT5 = "pretrained_weight/mt5-demo"
_UNDESCRIBED = 25  # every so-manieth training clip has no descriptions
# Old enough for every reader, and the same bytes under every Python.
_PROTOCOL = 4


def generate(
    root: Path,
    *,
    seed: int = 0,
    train: int = 4800,
    dev: int = 100,
    test: int = 200,
    isolated_per_sign: int = 6,
    videos: bool = False,
    mt5: bool = True,
    progress: bool = True,
) -> None:
    """Write the Demo corpus under `root`, or return at once where the same corpus is complete already.

    `train`, `dev`, `test` count sentences; of the `isolated_per_sign` clips of each single sign one is for
    dev, one for test. `videos` adds rendered signers, `mt5` a tokenizer and a small untrained mT5. Equal
    arguments give equal bytes. Another or an unfinished Demo is replaced; call from one process at a time.
    Raises InputError when a number makes no sense or `root` cannot be written.
    """
    sizes = {"train": train, "dev": dev, "test": test}
    _check(seed, sizes, isolated_per_sign)
    arguments = {"seed": seed, **sizes, "isolated_per_sign": isolated_per_sign, "videos": videos, "mt5": mt5}
    root = Path(root)
    if _is_complete(root, arguments):
        return
    clips = plan(seed, sizes, isolated_per_sign)
    try:
        _clear(root, videos=videos, mt5=mt5)
        _write_labels(root, clips)
        for clip in tqdm(clips, "Demo corpus", unit="clip", disable=not progress):
            _write_clip(root, clip, seed)
        if videos:
            _write_videos(root, clips, seed, progress)
        if mt5:
            write_mt5(root / _MT5, _texts(clips), _words(), seed)
        _write_marker(root, arguments)
    except OSError as error:
        raise InputError(
            f"The Demo corpus cannot be written under {root} ({error}); free space or choose another folder."
        ) from error


def _check(seed: int, sizes: dict[str, int], isolated_per_sign: int) -> None:
    for name, value in {"seed": seed, **sizes}.items():
        if value < 0:
            raise InputError(f"The Demo corpus' {name} is {value}; it must be 0 or more.")
    if isolated_per_sign < 0 or isolated_per_sign in (1, 2):
        raise InputError(f"The Demo corpus' isolated_per_sign is {isolated_per_sign}; it must be 0, or at least 3.")


def _folders(*, videos: bool, mt5: bool) -> list[str]:
    return [_POSES, _LABELS, _DESCRIPTIONS, *([_VIDEOS] if videos else []), *([_MT5] if mt5 else [])]


def _inventory(root: Path, arguments: dict[str, Any]) -> dict[str, int]:
    """Number of files below each folder."""
    folders = _folders(videos=arguments["videos"], mt5=arguments["mt5"])
    return {name: sum(len(files) for _, _, files in os.walk(root / name)) for name in folders}


def _is_complete(root: Path, arguments: dict[str, Any]) -> bool:
    """Whether the marker fits and no folder holds fewer files than it says; files added since do no harm."""
    try:
        marker = json.loads((root / _MARKER).read_text(encoding="utf-8"))
        promised = marker.pop("files")
        return marker == _claim(arguments) and all(
            count >= promised[name] for name, count in _inventory(root, arguments).items()
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return False


def _claim(arguments: dict[str, Any]) -> dict[str, Any]:
    return {"version": _CONTENT_VERSION, "arguments": arguments}


def _write_marker(root: Path, arguments: dict[str, Any]) -> None:
    marker = root / _MARKER
    content = {**_claim(arguments), "files": _inventory(root, arguments)}
    draft = marker.with_suffix(".part")
    draft.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(draft, marker)


def _clear(root: Path, *, videos: bool, mt5: bool) -> None:
    """Remove an older Demo, its marker first, so that a run killed here counts as unfinished."""
    (root / _MARKER).unlink(missing_ok=True)
    for name in {*_folders(videos=videos, mt5=mt5), _VIDEOS}:
        if (root / name).exists():
            shutil.rmtree(root / name)
    for name in (
        _POSES,
        _LABELS,
        *(f"{_DESCRIPTIONS}/{split}" for split in SPLITS),
        *([_VIDEOS] if videos else []),
    ):
        (root / name).mkdir(parents=True)


def _write_labels(root: Path, clips: Sequence[Clip]) -> None:
    for kind in ("", "isolated."):
        for split in SPLITS:
            chosen = [clip for clip in clips if clip.split == split and clip.isolated == bool(kind)]
            if kind and not chosen:
                continue
            labels = {clip.name: _label(clip) for clip in chosen}
            data = gzip.compress(pickle.dumps(labels, _PROTOCOL), mtime=0)
            (root / _LABELS / f"labels.{kind}{split}").write_bytes(data)


def _label(clip: Clip) -> dict[str, Any]:
    return {
        "name": clip.name,
        "video_path": f"{clip.name}.mp4",
        "text": clip.text,
        "gloss": clip.gloss,
        "language": clip.language,
    }


def _streams(clip: Clip, seed: int) -> list[np.random.Generator]:
    """Random numbers of a clip's motion and of its descriptions: its own, whatever else is generated."""
    key = zlib.crc32(clip.name.encode())
    return [np.random.default_rng([seed, key, use]) for use in range(2)]


def _perform(clip: Clip, seed: int) -> Motion:
    return animate([sign.form for sign in clip.signs], _streams(clip, seed)[0], from_rest=clip.isolated)


def _write_clip(root: Path, clip: Clip, seed: int) -> None:
    motion = _perform(clip, seed)
    pose = {"keypoints": list(motion.keypoints.astype(np.float32)), "scores": list(motion.scores)}
    (root / _POSES / f"{clip.name}.pkl").write_bytes(pickle.dumps(pose, _PROTOCOL))
    if clip.split == "train" and clip.index % _UNDESCRIBED == _UNDESCRIBED - 1:
        return
    texts = describe_clip(clip.signs, motion.starts, motion.lengths, _streams(clip, seed)[1])
    content = as_json(texts, len(motion.keypoints), clip.index % FORMS)
    path = root / _DESCRIPTIONS / clip.split / f"{clip.name}.json"
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def _write_videos(root: Path, clips: Sequence[Clip], seed: int, progress: bool) -> None:
    jobs = [(root / _VIDEOS / f"{clip.name}.mp4", clip, seed) for clip in clips]
    # Spawned, not forked: the caller may hold threads of torch or tokenizers.
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        done: Iterable[None] = pool.map(_film, jobs, chunksize=8)
        for _ in tqdm(done, "Demo videos", len(jobs), unit="clip", disable=not progress):
            pass


def _film(job: tuple[Path, Clip, int]) -> None:
    path, clip, seed = job
    write_video(path, _perform(clip, seed).truth)


def _prefixes() -> list[str]:
    return [f"Translate sign language video to {language}: " for language in LANGUAGES]


def _texts(clips: Iterable[Clip]) -> list[str]:
    """What the tokenizer learns from: training sentences, glosses, descriptions and prompts."""
    chosen = [clip for clip in clips if clip.split == "train"]
    return [
        *(clip.text for clip in chosen),
        *(" ".join(clip.gloss) for clip in chosen),
        *all_texts(),
        *_prefixes(),
    ]


def _words() -> list[str]:
    """Every word of the corpus, as it stands within and at the beginning of a sentence."""
    english = " ".join([*all_texts(), *_prefixes(), *(f"{sign.english} {sign.english_phrase}" for sign in SIGNS)])
    small = {word.strip(",:") for word in english.split()}
    starts = {
        sign.english_phrase.split()[0].capitalize() for sign in SIGNS if sign.role in ("time", "place", "subject")
    }
    chinese = {word for sign in SIGNS for word in (sign.chinese, sign.chinese_phrase, sign.measure) if word}
    return sorted({*small, *starts, *chinese, *(sign.gloss for sign in SIGNS)})
