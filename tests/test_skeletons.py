"""What is drawn of a clip: the seen strongly, the unseen faintly, nobody not at all, others in grey, hands large."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from uni_sign.canvas import Box, Canvas
from uni_sign.data.wholebody import PARTS, split_parts
from uni_sign.errors import SampleError
from uni_sign.skeletons import Place, clip_of, contact_sheet, draw_frame, film, panels, spread, strip

WRIST, HAND = 9, slice(91, 112)


def person(frames: int = 4, score: float = 0.9) -> dict[str, Any]:
    """Somebody whose left upper arm goes from (0.25, 0.5) to (0.75, 0.5), and whose hand is of size 0.1."""
    points = np.tile(np.linspace((0.3, 0.1), (0.7, 0.9), 133), (frames, 1, 1))
    points[:, 5], points[:, 7] = (0.25, 0.5), (0.75, 0.5)
    points[:, HAND] = (0.6, 0.7) + np.random.default_rng(0).random((21, 2)) * 0.1
    return {"keypoints": points, "scores": np.full((frames, 133), score)}


def drawn(content: dict[str, Any], frame: int = 0, panel: int = 0, group: int = 0) -> np.ndarray:
    """The pixels (200, 200, 3) of one panel, without ground."""
    canvas = Canvas(200, 200, "white")
    draw_frame(canvas, Place(panels(clip_of("a", content))[group][panel], Box(0, 0, 200, 200)), frame)
    return canvas.pixels()[:, :, :3].astype(int)


def alone(*points: int) -> dict[str, Any]:
    """Only these points are there."""
    content = person()
    content["scores"] = np.where(np.isin(np.arange(133), points), 0.9, 0.0) * np.ones((4, 1))
    return content


def test_points_lie_where_they_were_found() -> None:
    pixels = drawn(alone(5, 7))
    x, y = round(0.5 + (0.5 - 0.5) * 200 + 100), 100  # the window is a little larger than the video, and centred
    assert pixels[y, x].sum() < 500
    assert (drawn(alone(5, 7))[y + 20] == 255).all()
    reach = np.flatnonzero((pixels[y] < 255).any(axis=1))
    assert abs(reach.min() - (100 - 50 / 1.06)) < 5
    assert abs(reach.max() - (100 + 50 / 1.06)) < 5


def test_the_unseen_are_faint_and_the_absent_not_drawn() -> None:
    content = alone(5, 7)
    strong = 255 * 3 - drawn(content)[100, 100].sum()
    content["scores"][:, 5] = 0.3
    faint = 255 * 3 - drawn(content)[100, 100].sum()
    assert 0.1 * strong < faint < 0.4 * strong
    content["scores"][:, 5] = 0
    assert drawn(content)[100, 100].sum() == 255 * 3


def test_what_is_not_finite_is_not_drawn_and_has_no_parts() -> None:
    content = alone(5, 7)
    content["keypoints"][:, 5, 0] = np.nan
    assert len(panels(clip_of("a", content))) == 1
    assert drawn(content)[100, 100].sum() == 255 * 3
    content = person()
    content["scores"][2, 3] = np.inf
    content["keypoints"][1, 4] = 1e300
    assert contact_sheet(clip_of("a", content), 4).shape[2] == 4


@pytest.mark.parametrize(("panel", "points"), [(1, HAND), (2, slice(112, 133)), (3, slice(23, 91))])
def test_hands_and_face_fill_their_panels(panel: int, points: slice) -> None:
    content = person(6)
    content["keypoints"][3:, points] += (0.2, -0.3)  # the window goes along
    boxes = []
    for frame in (0, 5):
        inked = (drawn(content, frame, panel) < 200).any(axis=2)
        boxes.append([inked.any(axis=axis).nonzero()[0] for axis in (0, 1)])
    for box in boxes:
        assert max(np.ptp(box[0]), np.ptp(box[1])) > 120
        assert min(box[0].min(), box[1].min()) > 5
        assert max(box[0].max(), box[1].max()) < 195


def test_the_second_group_is_what_the_model_sees() -> None:
    content = person()
    parts = split_parts(content["keypoints"], content["scores"])
    group = panels(clip_of("a", content))[1]
    for panel, part in zip(group, PARTS, strict=True):
        np.testing.assert_array_equal(panel.xy, parts[part][..., :2])
        assert (np.abs(panel.xy - panel.centres[:, None]) <= panel.side / 2).all()
        assert {int(point) for stroke in panel.strokes for point in stroke.edges.reshape(-1)} <= set(range(18 + 3))
    content["scores"][1] = 0.2
    assert not (drawn(content, 1, 0, 1) < 60).any()  # no line, but the words that say so


def test_others_are_grey() -> None:
    content = person()
    one, two = content["keypoints"][0], content["keypoints"][0] * 0.4
    scores = np.full(133, 0.9)
    crowd = {
        "keypoints": [np.stack([two, one])] * 2 + [one[None]],
        "scores": [np.stack([scores * 0.5, scores])] * 2 + [scores[None]],
    }
    clip = clip_of("a", crowd)
    assert [len(others) for others in clip.others] == [1, 1, 0]
    np.testing.assert_array_equal(clip.others[0][0, :, :2], two)
    np.testing.assert_array_equal(clip.pose.keypoints[0], one)
    both, single = drawn(crowd, 0), drawn(crowd, 2)
    assert (both != single).any()
    new = both[(both != single).any(axis=2)]
    assert np.ptp(new, axis=1).max() < 40  # hardly any colour


def test_the_shape_of_the_video() -> None:
    content = {**person(), "width": 400, "height": 100}
    assert clip_of("a", content).aspect == 4
    assert clip_of("a", content, 2.0).aspect == 2
    for wrong in ("400", None, float("nan"), 0, -3):
        assert clip_of("a", {**content, "width": wrong}).aspect == 1
    assert panels(clip_of("a", content))[0][0].border == (1, 0.25)


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(SampleError, match="nobody"):
        clip_of("a", {"keypoints": [[], []], "scores": [[], []]})


def test_frames_are_spread() -> None:
    assert spread(100, 4) == [0, 33, 66, 99]
    assert spread(3, 8) == [0, 1, 2]
    assert spread(1, 8) == [0]


def test_pictures_have_their_sizes_and_frames() -> None:
    clip = clip_of("clip", {**person(9), "start": 300, "end": 309})
    wide, narrow = contact_sheet(clip, 6, 80), contact_sheet(clip, 5, 80)
    assert wide.shape[1] - narrow.shape[1] == 86
    assert strip(clip, 3, 50).shape == (50, 3 * 56 - 6, 4)
    frames = list(film(clip, 120))
    assert len(frames) == 9
    assert len({frame.shape for frame in frames}) == 1
    assert all((one != two).any() for one, two in pairwise(frames))  # number and bar
