"""`uni-sign prepare --crops`: every clip once, however the work is shared, and what `uni-sign doctor` says of it."""

import pickle
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import yaml

from uni_sign.cli import main
from uni_sign.commands.prepare import read_splits
from uni_sign.data.corpora import SPLITS, load_corpus
from uni_sign.data.crop_shards import CropShards
from uni_sign.stages.fine_tuning import FineTuning, FineTuningConfig

CLIPS, FRAMES = 9, 12


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Nine clips, one without a video, one whose video is too short."""
    for name in ("poses", "videos"):
        (tmp_path / name).mkdir()
    rng = np.random.default_rng(0)
    video = write_video(tmp_path / "videos" / "clip0.mp4", FRAMES)
    for number in range(CLIPS):
        pose = {"keypoints": rng.random((FRAMES, 1, 133, 2)), "scores": rng.uniform(0.4, 1, (FRAMES, 1, 133))}
        (tmp_path / "poses" / f"clip{number}.pkl").write_bytes(pickle.dumps(pose))
        if number:
            shutil.copy(video, tmp_path / "videos" / f"clip{number}.mp4")
    (tmp_path / "videos" / "clip7.mp4").unlink()
    write_video(tmp_path / "videos" / "clip8.mp4", FRAMES - 1)
    members = {"train": range(2, CLIPS), "dev": range(1), "test": range(1, 2)}
    for split in SPLITS:
        labels = {f"clip{n}": {"name": f"clip{n}", "video_path": f"clip{n}.mp4", "text": "a"} for n in members[split]}
        (tmp_path / f"labels.{split}").write_bytes(pickle.dumps(labels))
    content = {"name": "Mine", "language": "English", "pose_dir": "poses", "video_dir": "videos"}
    content["labels"] = {split: f"labels.{split}" for split in SPLITS}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    return tmp_path


def write_video(path: Path, count: int) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.options = 64, 48, "yuv420p", {"threads": "1"}
        for number in range(count):
            picture = np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def crop(root: Path, *more: str) -> None:
    flags = ["--dataset", str(root / "mine.yaml"), "--data_root", str(root), "--crops", "--crop_quality", "0"]
    assert main(["prepare", *flags, *more]) == 0


def contents(root: Path) -> list[tuple[object, ...]]:
    """All rows, as they count: clip and problem, and everything that is kept of it."""
    shards = CropShards(load_corpus(str(root / "mine.yaml"), root).crop_dir)
    names = [f"{name!r} {problem}" for name, problem in zip(shards._names, shards._problems, strict=True)]
    columns = shards._columns
    rows = []
    for row, name in enumerate(names):
        data = shards._maps[int(shards._shard_of[row])]
        at, size = int(columns["table_at"][row]), int(columns["table_bytes"][row])
        table = np.frombuffer(data[at : at + size], np.int64).reshape(-1, 6)
        start = int(columns["pictures_at"][row])
        rows.append((name, table.tobytes(), data[start : start + int(table[:, 5].sum())]))
    return sorted(rows)


def test_any_sharing_keeps_each_clip_once(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    crop(root)
    assert "Crops of 7 clips" in (said := capsys.readouterr().out)
    assert "clip8.mp4 has 11 frames, but its poses go up to frame 11" in said
    assert "clip7: no video of it" in said
    alone = contents(root)
    assert len(alone) == len({name for name, *_ in alone}) == CLIPS - 1
    folder = load_corpus(str(root / "mine.yaml"), root).crop_dir
    shutil.rmtree(folder)
    crop(root, "--shard_index", "1", "--shard_count", "2")
    crop(root, "--shard_index", "0", "--shard_count", "2", "--num_workers", "2")
    assert contents(root) == alone
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    crop(root)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    next(folder.glob("*.arrow")).unlink()
    assert contents(root) != alone
    crop(root)
    assert contents(root) == alone


def test_doctor_counts_videos_and_crops(root: Path) -> None:
    def said() -> dict[str, tuple[str, str]]:
        stage = FineTuning(FineTuningConfig(dataset=str(root / "mine.yaml"), data_root=root, rgb_support=True), seed=0)
        return {finding.subject: (finding.level, finding.detail) for finding in stage.examine()}

    level, detail = said()["train videos"]
    assert (level, detail) == ("warn", "6 of 7 clips have a video; the hand crops of 0 are prepared")
    crop(root)
    assert said()["train videos"] == ("warn", "6 of 7 clips have a video; the hand crops of 5 are prepared")
    assert said()["test videos"] == ("pass", "1 of 1 clips have a video; the hand crops of 1 are prepared")
    shutil.rmtree(root / "videos")
    level, detail = said()["dev videos"]
    assert level == "fail"
    assert "videos cannot be read" in detail


def test_crops_are_of_clips_with_a_video(root: Path) -> None:
    corpus = load_corpus(str(root / "mine.yaml"), root)
    assert len(read_splits(corpus, videos=True)["train"].samples) == CLIPS - 3
