"""The embedded corpus: its files can be read as the users' own, and it teaches what it claims to teach."""

import gzip
import hashlib
import json
import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import sentencepiece
from safetensors.numpy import load_file

from uni_sign.data.demo import generate, write
from uni_sign.data.demo.describe import FORMS, MOVES, PHASES, WORDINGS, all_texts, as_json, describe, describe_clip
from uni_sign.data.demo.grammar import SPLITS, Clip, plan, sentence
from uni_sign.data.demo.hands import HANDS
from uni_sign.data.demo.lexicon import HANDSHAPES, MOUTHS, SIGNS, look_alikes
from uni_sign.data.demo.motion import PLACES, animate
from uni_sign.data.demo.video import SIZE
from uni_sign.errors import InputError

SMALL: dict[str, Any] = {"train": 60, "dev": 10, "test": 12, "isolated_per_sign": 3, "progress": False}
TINY: dict[str, Any] = {"train": 4, "dev": 2, "test": 2, "isolated_per_sign": 0, "mt5": False, "progress": False}
PALMS = ("up", "down", "in", "out")
PUBLISHED = {"train": 4800, "dev": 100, "test": 200}
AMBIGUOUS = {sign.gloss for pair in look_alikes() for sign in pair}
BY_GLOSS = {sign.gloss: sign for sign in SIGNS}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demo")
    generate(root, **SMALL)
    return root


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return plan(0, PUBLISHED, 6)


def labels(root: Path, split: str) -> dict[str, dict[str, Any]]:
    return pickle.loads(gzip.decompress((root / f"data/Demo/labels.{split}").read_bytes()))


def digest(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def read_descriptions(content: Any) -> dict[int, str]:
    """The five forms of the spec, read without help from the package."""
    if isinstance(content, list):
        texts = [row.get("description", row.get("text")) for row in content]
        return {frame: text for frame, text in enumerate(texts) if text is not None}
    for key in ("frames", "descriptions", "data"):
        if key in content:
            return {int(frame): text for frame, text in content[key].items()}
    others = {"metadata", "info", "total_frames", "version", "source"}
    return {int(frame): text for frame, text in content.items() if frame not in others}


def test_poses_have_the_users_form(corpus: Path) -> None:
    files = sorted((corpus / "dataset/Demo/pose_format").glob("*.pkl"))
    assert len(files) == 60 + 10 + 12 + 3 * len(SIGNS)
    for path in files[::9]:
        pose = pickle.loads(path.read_bytes())
        assert set(pose) == {"keypoints", "scores"}
        assert isinstance(pose["keypoints"], list)
        assert len(pose["keypoints"]) == len(pose["scores"])
        assert {(frame.shape, frame.dtype.name) for frame in pose["keypoints"]} == {((1, 133, 2), "float32")}
        assert {(frame.shape, frame.dtype.name) for frame in pose["scores"]} == {((1, 133), "float32")}
        upper = np.stack(pose["keypoints"])[:, 0, [*range(11), *range(23, 91)]]
        assert upper.min() > 0.0
        assert upper.max() < 1.0


def test_labels_name_existing_clips_half_in_each_language(corpus: Path) -> None:
    for split, count in (("train", 60), ("dev", 10), ("test", 12)):
        rows = labels(corpus, split)
        assert len(rows) == count
        assert Counter(row["language"] for row in rows.values()) == {"English": count // 2, "Chinese": count // 2}
        for name, row in rows.items():
            assert set(row) == {"name", "video_path", "text", "gloss", "language"}
            assert (row["name"], row["video_path"]) == (name, f"{name}.mp4")
            assert row["text"].isascii() == (row["language"] == "English")
            assert (1 if split == "train" else 4) <= len(row["gloss"]) <= 6
            assert (corpus / f"dataset/Demo/pose_format/{name}.pkl").is_file()


def test_isolated_labels_cover_every_sign_in_every_split(corpus: Path) -> None:
    for split in SPLITS:
        rows = labels(corpus, f"isolated.{split}").values()
        assert sorted(row["gloss"][0] for row in rows) == sorted(BY_GLOSS)
        for row in rows:
            sign = BY_GLOSS[row["gloss"][0]]
            assert row["text"] == (sign.english if row["language"] == "English" else sign.chinese)


def test_descriptions_come_in_all_five_forms(corpus: Path) -> None:
    kinds: Counter[str] = Counter()
    for path in sorted((corpus / "description/Demo/split_data").rglob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        texts = read_descriptions(content)
        assert set(texts.values()) <= set(all_texts())
        assert next(iter(texts)) == 0 or path.stem.startswith("word-")
        kinds[type(content).__name__ if isinstance(content, list) else next(iter(content))] += 1
    assert {"list", "frames", "descriptions", "data", "0"} <= set(kinds)
    described = {path.stem for path in (corpus / "description/Demo/split_data/train").glob("train-*.json")}
    assert set(labels(corpus, "train")) - described == {"train-00024", "train-00049"}


def test_no_sentence_occurs_twice(clips: list[Clip]) -> None:
    sentences = [clip for clip in clips if not clip.isolated and len(clip.signs) > 3]
    assert len({tuple(clip.gloss) for clip in sentences}) == len(sentences) == 5100 - 1920
    assert len({clip.text for clip in sentences}) == len(sentences)
    assert len({clip.name for clip in clips}) == len(clips)


def test_phrases_are_two_fifths_of_training_in_both_languages_and_of_no_held_out_split(clips: list[Clip]) -> None:
    phrases = [clip for clip in clips if not clip.isolated and len(clip.signs) <= 3]
    assert {clip.split for clip in phrases} == {"train"}
    assert Counter(clip.language for clip in phrases) == {"English": 960, "Chinese": 960}
    held_out = {clip.text for clip in clips if clip.split != "train" and not clip.isolated}
    assert not held_out & {clip.text for clip in phrases}


def test_every_sign_is_trained_and_look_alikes_equally_often(clips: list[Clip]) -> None:
    counts = Counter(gloss for clip in clips if clip.split == "train" and not clip.isolated for gloss in clip.gloss)
    assert len(SIGNS) >= 72
    assert set(counts) == set(BY_GLOSS)
    assert min(counts.values()) >= 50
    for one, other in look_alikes():
        assert abs(counts[one.gloss] - counts[other.gloss]) <= 2


def test_a_sentence_holds_one_and_a_half_to_two_ambiguous_signs(clips: list[Clip]) -> None:
    glosses = [clip.gloss for clip in clips if len(clip.signs) > 3]
    assert 1.5 <= np.mean([len(AMBIGUOUS & set(gloss)) for gloss in glosses]) <= 2.0


def test_lexicon_uses_known_features_only() -> None:
    for sign in SIGNS:
        form = sign.form
        assert form.handshape in HANDSHAPES
        assert {form.start, form.end} <= set(PLACES)
        assert form.movement in MOVES
        assert form.hands in ("one", "both", "base")
        assert sign.palm in PALMS
        assert sign.mouth in MOUTHS
        assert (form.start != form.end) or form.movement in ("circle", "tap", "wiggle")
    for words in ([sign.gloss for sign in SIGNS], [sign.english for sign in SIGNS], [sign.chinese for sign in SIGNS]):
        assert len(set(words)) == len(SIGNS)


def test_look_alikes_differ_in_palm_or_mouth_alone() -> None:
    pairs = look_alikes()
    assert len(pairs) >= 14
    assert len(AMBIGUOUS) == 2 * len(pairs)
    for one, other in pairs:
        assert one.role == other.role
        assert (one.palm, one.mouth) != (other.palm, other.mouth)


def test_look_alikes_move_identically_and_are_described_differently() -> None:
    for one, other in look_alikes():
        clip = Clip("train-00000", "train", 0, False, "English", (BY_GLOSS["MOTHER"], one))
        twin = replace(clip, signs=(BY_GLOSS["MOTHER"], other))
        motion, copy = write._perform(clip, 0), write._perform(twin, 0)
        np.testing.assert_array_equal(motion.keypoints, copy.keypoints)
        np.testing.assert_array_equal(motion.scores, copy.scores)
        ours, theirs = (
            {describe(sign, phase, wording) for phase in PHASES for wording in range(WORDINGS)} for sign in (one, other)
        )
        assert not ours & theirs


def test_all_other_signs_are_told_apart_by_their_poses() -> None:
    forms = list(dict.fromkeys(sign.form for sign in SIGNS))

    def features(number: int, seed: int) -> np.ndarray:
        motion = animate([forms[number]], np.random.default_rng([seed, number]), from_rest=True)
        frames = motion.starts[0] + np.linspace(0, motion.lengths[0] - 1, 5).round().astype(int)
        points = motion.keypoints[frames, 0]
        width = np.abs(points[:, 5, 0] - points[:, 6, 0]).mean()
        arms = points[:, [7, 8, 9, 10]] - points[:, 5:7].mean(axis=1, keepdims=True)
        hands = [points[:, first : first + 21] - points[:, first : first + 1] for first in (91, 112)]
        return np.concatenate([part.ravel() for part in (arms, *hands)]) / width

    numbers = range(len(forms))
    means = np.stack([np.median([features(number, seed) for seed in range(7)], axis=0) for number in numbers])
    new = np.stack([features(number, 7) for number in numbers])
    nearest = np.abs(new[:, None] - means).mean(axis=-1).argmin(axis=1)
    assert (nearest == np.arange(len(forms))).mean() == 1.0


def test_handshapes_are_hands() -> None:
    assert set(HANDS) == set(HANDSHAPES)
    for hand in HANDS.values():
        assert hand.shape == (21, 2)
        bones = np.linalg.norm(np.diff(hand[1:].reshape(5, 4, 2), axis=1), axis=-1)
        assert bones.max() < 0.3
        assert np.abs(hand).max() < 1.2
    shapes = np.stack(list(HANDS.values()))
    apart = np.abs(shapes[:, None] - shapes).max(axis=(-1, -2))
    assert apart[~np.eye(len(shapes), dtype=bool)].min() > 0.1


def test_clips_have_the_promised_lengths_and_losses(clips: list[Clip]) -> None:
    motions = [write._perform(clip, 0) for clip in [clip for clip in clips if len(clip.signs) > 3][:200]]
    frames = np.array([len(motion.keypoints) for motion in motions])
    assert 22 <= frames.min() <= frames.max() <= 52
    assert 30 <= frames.mean() <= 40
    scores = np.concatenate([motion.scores[:, 0] for motion in motions])
    assert scores[:, 11:23].max() < 0.3
    assert scores[:, :11].min() > 0.3
    for hand in (slice(91, 112), slice(112, 133)):
        lost = (scores[:, hand] < 0.3).all(axis=1)
        assert 0.01 < lost.mean() < 0.06
        assert scores[~lost, hand].min() >= 0.6


def test_every_sign_is_described_at_its_first_and_every_third_frame(clips: list[Clip]) -> None:
    share = []
    for clip in clips[:50]:
        motion = write._perform(clip, 0)
        texts = describe_clip(clip.signs, motion.starts, motion.lengths, np.random.default_rng(0))
        assert set(motion.starts.tolist()) <= set(texts)
        share.append(len(texts) / len(motion.keypoints))
        for sign, start, length in zip(clip.signs, motion.starts, motion.lengths, strict=True):
            steps = [frame - start for frame in texts if start <= frame < start + length]
            assert steps == list(range(0, length, 3))
            assert f"palm {sign.palm}, {MOUTHS[sign.mouth]}" in texts[start]
    assert 0.25 < np.mean(share) < 0.4


def test_descriptions_are_few_short_and_name_what_is_unseen() -> None:
    texts = all_texts()
    assert len(texts) < 900
    for text in texts:
        assert len(text.split()) <= 16
        assert any(f"palm {palm}" in text for palm in PALMS)
        assert any(mouth in text for mouth in MOUTHS.values())


@pytest.mark.parametrize("form", range(FORMS))
def test_json_forms_hold_the_same_frames(form: int) -> None:
    texts = {0: "one", 3: "two", 11: "three"}
    assert read_descriptions(json.loads(json.dumps(as_json(texts, 14, form)))) == texts


@pytest.mark.parametrize(
    ("glosses", "english", "chinese"),
    [
        ("TOMORROW MOTHER BUY THREE APPLE RED", "Tomorrow mother buys three red apples.", "明天妈妈买三个红苹果。"),
        ("PARK WHO NEVER LOSE TWO BOOK", "In the park who never loses two books?", "在公园谁从不丢掉两本书？"),
        ("FRIEND LIKE LAMP OLD RIGHT", "My friend likes old lamps, right?", "我的朋友喜欢旧灯，对吗？"),
    ],
)
def test_sentences(glosses: str, english: str, chinese: str) -> None:
    signs = [BY_GLOSS[gloss] for gloss in glosses.split()]
    assert sentence(signs, "English") == english
    assert sentence(signs, "Chinese") == chinese


def test_same_arguments_give_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    generate(tmp_path, **SMALL)
    assert digest(tmp_path) == digest(corpus)


def test_another_seed_gives_other_sentences_and_motion(tmp_path: Path) -> None:
    for seed in (0, 1):
        generate(tmp_path / str(seed), seed=seed, **TINY)
    first, second = digest(tmp_path / "0"), digest(tmp_path / "1")
    assert set(first) == set(second)
    assert not {name for name in first if first[name] == second[name]}


def test_a_complete_corpus_is_left_alone(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "plan", lambda *_: pytest.fail("generated again"))
    (corpus / "data/Demo/notes.txt").touch()
    generate(corpus, **SMALL)
    (corpus / "data/Demo/notes.txt").unlink()


def test_an_unfinished_or_different_corpus_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    neighbour = tmp_path / "dataset/Other/pose_format/clip.pkl"
    neighbour.parent.mkdir(parents=True)
    neighbour.write_bytes(b"mine")
    generate(tmp_path, **TINY)
    whole = digest(tmp_path)
    (tmp_path / "description/Demo/split_data/dev/dev-00001.json").unlink()
    generate(tmp_path, **TINY)
    assert digest(tmp_path) == whole
    (tmp_path / "dataset/Demo/COMPLETE.json").write_text("[1]", encoding="utf-8")
    (tmp_path / "dataset/Demo/pose_format/train-00000.pkl").write_bytes(b"cut")
    generate(tmp_path, **TINY)
    assert digest(tmp_path) == whole
    generate(tmp_path, **{**TINY, "train": 3})
    assert not (tmp_path / "dataset/Demo/pose_format/train-00003.pkl").exists()
    assert neighbour.read_bytes() == b"mine"


def test_an_interrupted_run_leaves_no_marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generate(tmp_path, **TINY)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(write, "_write_clip", stop)
        with pytest.raises(KeyboardInterrupt):
            generate(tmp_path, seed=1, **TINY)
    assert not (tmp_path / "dataset/Demo/COMPLETE.json").exists()


def test_videos_show_every_frame(tmp_path: Path) -> None:
    generate(tmp_path, **{**TINY, "train": 2, "dev": 0, "test": 0}, videos=True)
    for name in labels(tmp_path, "train"):
        pose = pickle.loads((tmp_path / f"dataset/Demo/pose_format/{name}.pkl").read_bytes())
        video = tmp_path / f"dataset/Demo/rgb_format/{name}.mp4"
        with av.open(str(video)) as container:
            stream = container.streams.video[0]
            assert (stream.width, stream.height, stream.average_rate) == (SIZE, SIZE, 25)
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert len(frames) == len(pose["keypoints"])
        assert np.abs(frames[0].astype(int) - frames[len(frames) // 2]).max() > 60


def test_tokenizer_gives_every_text_back(corpus: Path, clips: list[Clip]) -> None:
    model = corpus / "pretrained_weight/mt5-demo/spiece.model"
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(model))
    assert [tokenizer.pad_id(), tokenizer.eos_id(), tokenizer.unk_id(), tokenizer.bos_id()] == [0, 1, 2, -1]
    texts = [*(clip.text for clip in clips), *(" ".join(clip.gloss) for clip in clips), *all_texts(), "鸡 née"]
    ids = tokenizer.encode(texts)
    assert [tokenizer.decode(row) for row in ids] == texts
    assert tokenizer.unk_id() not in {number for row in ids for number in row}
    assert max(len(row) for row in ids) < 50


def test_mt5_is_complete_and_untied(corpus: Path) -> None:
    folder = corpus / "pretrained_weight/mt5-demo"
    import torch
    import transformers

    config = transformers.MT5Config(**json.loads((folder / "config.json").read_text(encoding="utf-8")))
    assert config.vocab_size % 64 == 0
    with torch.device("meta"):
        model = transformers.MT5ForConditionalGeneration(config)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if "embed_tokens" not in name}
    tensors = load_file(folder / "model.safetensors")
    assert {name: tensor.shape for name, tensor in tensors.items()} == wanted
    assert tensors["lm_head.weight"].shape == tensors["shared.weight"].shape
    assert not np.allclose(tensors["lm_head.weight"], tensors["shared.weight"])
    assert {tensor.dtype.name for tensor in tensors.values()} == {"float32"}


@pytest.mark.parametrize("wrong", [{"train": -1}, {"seed": -1}, {"isolated_per_sign": 2}])
def test_senseless_numbers_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        generate(tmp_path, **{**TINY, **wrong})
    assert not list(tmp_path.iterdir())


def test_a_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "file"
    root.touch()
    with pytest.raises(InputError, match="cannot be written"):
        generate(root, **TINY)
