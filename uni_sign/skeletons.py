"""Clips as pictures: skeletons as they were extracted, hands and face enlarged, and the parts that the model sees."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from uni_sign.canvas import Box, Canvas
from uni_sign.data.wholebody import THRESHOLD, People, Pose, people_of, pose_of, split_parts
from uni_sign.errors import SampleError

_TORSO, _LEFT, _RIGHT, _FACE, _OTHER = "#44505f", "#2a78d6", "#d9741c", "#1f8a7a", "#9aa5b1"
# Thumb to little finger.
_LEFT_FINGERS = ("#0d3f7d", "#1b5fb3", "#2a78d6", "#5b9de9", "#8cbcf2")
_RIGHT_FINGERS = ("#8a3f02", "#b65a0b", "#d9741c", "#ef9950", "#f5b986")
_PAPER, _PANEL, _EDGE, _INK, _SOFT, _GRID = "#eef1f5", "#ffffff", "#d5dbe3", "#222b36", "#6b7785", "#e3e8ee"
_FADED = 0.2  # of points that the model does not see

_FINGERS = tuple((0, *range(first, first + 4)) for first in (1, 5, 9, 13, 17))


class _Stroke(NamedTuple):
    """Edges (E, 2) between numbers of points, points that have dots; ``weight``: how wide, beside other strokes."""

    colour: str
    edges: np.ndarray
    dots: np.ndarray
    weight: float


def _stroke(colour: str, *chains: Sequence[int], dots: bool = True, weight: float = 1.0) -> _Stroke:
    edges = [edge for chain in chains for edge in pairwise(chain)]
    points = sorted({point for chain in chains for point in chain}) if dots else []
    return _Stroke(colour, np.array(edges, int).reshape(-1, 2), np.array(points, int), weight)


def _hand(colours: Sequence[str], first: int) -> tuple[_Stroke, ...]:
    fingers = zip(colours, _FINGERS, strict=True)
    return tuple(_stroke(colour, [first + point for point in finger]) for colour, finger in fingers)


def _face_chains(first: int) -> list[list[int]]:
    """The 68 points: jaw, brows, nose and its wings; eyes and lips are closed."""
    runs = [(0, 17), (17, 22), (22, 27), (27, 31), (31, 36)]
    loops = [(36, 42), (42, 48), (48, 60), (60, 68)]
    open_ones = [list(range(first + low, first + high)) for low, high in runs]
    return open_ones + [[*range(first + low, first + high), first + low] for low, high in loops]


FACE = (_stroke(_FACE, *_face_chains(23), dots=False),)
LEFT_HAND, RIGHT_HAND = _hand(_LEFT_FINGERS, 91), _hand(_RIGHT_FINGERS, 112)
_LIMBS = (
    _stroke(_OTHER, (3, 1, 0, 2, 4), dots=False, weight=0.5),
    _stroke(_TORSO, (5, 6), (5, 11), (6, 12), (11, 12), (11, 13, 15, 17), (15, 19), (12, 14, 16, 20), (16, 22)),
    _stroke(_LEFT, (5, 7, 9)),
    _stroke(_RIGHT, (6, 8, 10)),
)
WHOLE = (*_LIMBS, *(stroke._replace(weight=0.6) for stroke in (*FACE, *LEFT_HAND, *RIGHT_HAND)))
_SOMEBODY = tuple(stroke._replace(colour=_OTHER, weight=0.6) for stroke in WHOLE)
# Of the model's parts, by the numbers of their own points; the face's middle is joined to all, which hides the rest.
PARTS = {
    "body": (_stroke(_TORSO, (1, 0, 2), (3, 0, 4)), _stroke(_LEFT, (3, 5, 7)), _stroke(_RIGHT, (4, 6, 8))),
    "left": _hand(_LEFT_FINGERS, 0),
    "right": _hand(_RIGHT_FINGERS, 0),
    "face_all": (_stroke(_FACE, range(9), (*range(9, 17), 9), (17,)),),
}


@dataclass(frozen=True, eq=False)
class Clip:
    """What is drawn of a clip: the signer, others in each frame (P, 133, 3: x, y, score), the parts if there are any.

    ``aspect``: width of the video divided by its height; poses are in shares of both. ``problem``: why there are none.
    ``origin``: where the pose comes from.
    """

    name: str
    pose: Pose
    others: Sequence[np.ndarray] = ()
    parts: Mapping[str, np.ndarray] | None = None
    aspect: float = 1.0
    problem: str = ""
    origin: str = "as extracted"

    def __len__(self) -> int:
        return len(self.pose.keypoints)


def clip_of(name: str, content: Any, aspect: float = 0.0) -> Clip:
    """What can be drawn of a pose file's content: without parts where its values are none that a model is shown.

    ``aspect`` 0: that of the file's `width` and `height` where it has them, else 1. Raises SampleError, without the
    file's name, where there is nothing to draw.
    """
    people = people_of(content)
    aspect = aspect or _own_aspect(content)
    try:
        pose = pose_of(content, name)
    except SampleError as error:
        return Clip(name, _first_of(people), aspect=aspect, problem=str(error))
    return Clip(name, pose, _others(people, pose), split_parts(pose.keypoints, pose.scores), aspect)


def _own_aspect(content: Mapping[str, Any]) -> float:
    width, height = content.get("width"), content.get("height")
    if isinstance(width, int | float) and isinstance(height, int | float) and width > 0 and height > 0:
        return min(max(width / height, 0.1), 10.0)
    return 1.0


def _first_of(people: People) -> Pose:
    """The first person of each frame, where nobody can be chosen."""
    frames = np.flatnonzero(people.counts)
    rows = (np.cumsum(people.counts) - people.counts)[frames]
    keypoints = np.zeros((len(people.counts), *people.keypoints.shape[1:]))
    scores = np.zeros((len(people.counts), people.scores.shape[1]))
    keypoints[frames], scores[frames] = people.keypoints[rows], people.scores[rows]
    return Pose(keypoints, scores)


def _others(people: People, signer: Pose) -> list[np.ndarray]:
    """The persons of each frame that are not the signer, (P, 133, 3)."""
    if people.counts.max() < 2:
        return []
    frame_of = np.repeat(np.arange(len(people.counts)), people.counts)
    same = (people.keypoints == signer.keypoints[frame_of]).all(axis=(1, 2))
    all_three = np.concatenate([people.keypoints, people.scores[..., None]], axis=-1)[~same]
    return [all_three[frame_of[~same] == frame] for frame in range(len(people.counts))]


# --- panels: one of a clip's skeletons, in a window that moves along with it -------------------------------


@dataclass(frozen=True, eq=False)
class Panel:
    """A skeleton over T frames: xy (T, V, 2), which points are seen, or there at all (T, V), and its strokes.

    ``centres`` (T, 2) and ``side``: the square window of each frame; ``zoom``: how much it enlarges.
    """

    title: str
    zoom: float
    xy: np.ndarray
    seen: np.ndarray
    there: np.ndarray
    strokes: tuple[_Stroke, ...]
    centres: np.ndarray
    side: float
    others: Sequence[np.ndarray] = ()
    border: tuple[float, float] | None = None  # width and height of the video
    cross: bool = False
    thickness: float = 1.0


def panels(clip: Clip) -> list[list[Panel]]:
    """Rows of panels: what was extracted (whole, left hand, right hand, face), and what the model sees of it."""
    scale = np.array([clip.aspect, 1.0]) / max(clip.aspect, 1.0)
    xy = np.nan_to_num(clip.pose.keypoints, nan=0.0, posinf=0.0, neginf=0.0).clip(-9, 9) * scale
    finite = np.isfinite(clip.pose.keypoints).all(axis=2) & np.isfinite(clip.pose.scores)
    scores = np.where(finite, clip.pose.scores, 0)
    seen, there = scores > THRESHOLD, scores > 0
    centres, side = _whole_window(xy, seen, scale)
    others = [np.concatenate([frame[..., :2] * scale, frame[..., 2:]], axis=-1) for frame in clip.others]
    whole = Panel("whole", 1, xy, seen, there, WHOLE, centres, side, others, (scale[0], scale[1]))
    rows = [[whole]]
    for title, first, last, strokes in (
        ("left hand", 91, 112, LEFT_HAND),
        ("right hand", 112, 133, RIGHT_HAND),
        ("face", 23, 91, FACE),
    ):
        centres, side = _following_window(xy[:, first:last], seen[:, first:last])
        rows[0].append(Panel(title, whole.side / side, xy, seen, there, strokes, centres, side, thickness=1.3))
    if clip.parts is not None:
        rows.append([_part_panel(name, part) for name, part in clip.parts.items()])
    return rows


def _part_panel(name: str, part: np.ndarray) -> Panel:
    """A part in the window that holds all of its frames, and the origin."""
    xy, seen = part[..., :2], part[..., 2] > 0
    title, full = {"left": "left hand", "right": "right hand", "face_all": "face"}.get(name, name), 2.2
    points = xy[seen]
    low, high = points.min(axis=0, initial=0), points.max(axis=0, initial=0)
    side = full if name == "body" else max(float((high - low).max()) * 1.2, 1e-3)
    centre = np.zeros(2) if name == "body" else (low + high) / 2
    strokes, nothing, centres = PARTS[name], np.zeros_like(seen), np.tile(centre, (len(part), 1))
    return Panel(title, full / side, xy, seen, nothing, strokes, centres, side, cross=True, thickness=1.3)


def _whole_window(xy: np.ndarray, seen: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, float]:
    """The whole video and every seen point in it, up to half a video beside it: the same in all frames."""
    points = xy[seen].clip(-0.5, 1.5)
    low = np.minimum(0, points.min(axis=0, initial=0)) - 0.03
    high = np.maximum(scale, points.max(axis=0, initial=0)) + 0.03
    return np.tile((low + high) / 2, (len(xy), 1)), float((high - low).max())


def _following_window(xy: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, float]:
    """Centred on each frame's seen points, as large as nearly all frames need; unseen, it waits where it was."""
    low = np.where(seen[..., None], xy, 1e9).min(axis=1)
    high = np.where(seen[..., None], xy, -1e9).max(axis=1)
    known = np.flatnonzero(seen.any(axis=1))
    if not len(known):
        return np.full((len(xy), 2), 0.5), 0.25
    latest = known[np.searchsorted(known, np.arange(len(xy)), side="right").clip(1) - 1]
    side = float(np.quantile((high - low)[known].max(axis=1), 0.95))
    return ((low + high) / 2)[latest], max(1.25 * side, 1e-3)


class Place(NamedTuple):
    """A panel on a canvas."""

    panel: Panel
    box: Box

    def pixels(self, xy: np.ndarray, frame: int) -> np.ndarray:
        """Where points (N, 2) of a frame lie on the canvas."""
        box, panel = self.box, self.panel
        middle = (box.x + box.width / 2, box.y + box.height / 2)
        return (xy - panel.centres[frame]) * (box.width / panel.side) + middle


def draw_ground(canvas: Canvas, place: Place) -> None:
    """What stays: the paper, the edge of the video, the origin of a part."""
    panel, box = place
    canvas.rectangle(box, _PANEL, _EDGE, radius=5)
    if panel.border:
        (left, top), (right, low) = place.pixels(np.array([(0.0, 0.0), panel.border]), 0)
        canvas.rectangle(Box(left, top, right - left, low - top), None, _GRID)
    if panel.cross:
        ends = np.array([(-0.04, 0), (0.04, 0), (0, -0.04), (0, 0.04)]) * panel.side
        canvas.lines(place.pixels(ends, 0).reshape(-1, 2, 2), _EDGE, 1.0)


def draw_frame(canvas: Canvas, place: Place, frame: int) -> None:
    """One frame of a panel; what lies outside its window is cut off."""
    panel, box = place
    inside = Box(box.x + 1, box.y + 1, box.width - 2, box.height - 2)
    width = panel.thickness * (0.9 + box.width / 180)
    for person in panel.others[frame] if len(panel.others) else ():
        shown = person[:, 2] > THRESHOLD
        _draw(canvas, _SOMEBODY, place.pixels(person[:, :2], frame), shown, shown, width, inside)
    points = place.pixels(panel.xy[frame], frame)
    _draw(canvas, panel.strokes, points, panel.seen[frame], panel.there[frame], width, inside)
    if not any(panel.seen[frame][stroke.edges].any() for stroke in panel.strokes):
        canvas.text(box.x + box.width / 2, box.y + box.height - 8, "not seen", 10, _SOFT, "centre")


def _draw(canvas: Canvas, strokes: Sequence[_Stroke], places: np.ndarray, seen: np.ndarray, there: np.ndarray,
          width: float, within: Box) -> None:  # fmt: skip
    for colour, edges, dots, weight in strokes:
        both = seen[edges].all(axis=1)
        faint = there[edges].all(axis=1) & ~both
        canvas.lines(places[edges[faint]], colour, weight * width, _FADED, within)
        canvas.lines(places[edges[both]], colour, weight * width, 1.0, within)
        canvas.dots(places[dots[there[dots] & ~seen[dots]]], colour, 0.75 * weight * width, _FADED, within)
        canvas.dots(places[dots[seen[dots]]], colour, 0.75 * weight * width, 1.0, within)


# --- pictures ----------------------------------------------------------------------------------------------

_MARGIN, _GAP, _HEAD, _SIDE_TITLE, _BREAK, _WORDS = 16, 6, 52, 84, 30, 20
_SEEN_BY_MODEL = "as the model sees it"


def contact_sheet(clip: Clip, count: int, size: int = 150) -> np.ndarray:
    """``count`` frames side by side, evenly spread: a column each, a row a panel of ``size`` pixels."""
    groups, frames = panels(clip), spread(len(clip), count)
    left = _MARGIN + _SIDE_TITLE
    width = left + len(frames) * (size + _GAP) - _GAP + _MARGIN
    height = _HEAD + sum(_BREAK + len(group) * (size + _GAP) for group in groups) + _MARGIN - _GAP
    canvas = Canvas(width, height, _PAPER)
    _headline(canvas, clip, f"{len(frames)} of {len(clip)} frames")
    y = _HEAD
    for group, title in zip(groups, (clip.origin, _SEEN_BY_MODEL), strict=False):
        canvas.text(_MARGIN, y + _BREAK - 9, title, 12, _INK, bold=True)
        y += _BREAK
        for panel in group:
            canvas.text(_MARGIN, y + size / 2, panel.title, 11, _INK)
            canvas.text(_MARGIN, y + size / 2 + 15, _zoom(panel), 10, _SOFT)
            for column, frame in enumerate(frames):
                place = Place(panel, Box(left + column * (size + _GAP), y, size, size))
                draw_ground(canvas, place)
                draw_frame(canvas, place, frame)
                if panel is groups[0][0]:
                    x = place.box.x + size - 6
                    canvas.text(x, y - 9, f"{frame + clip.pose.start}", 10, _SOFT, "right")
            y += size + _GAP
    return canvas.pixels()


def strip(clip: Clip, count: int, size: int = 120) -> np.ndarray:
    """``count`` frames as extracted, side by side, without words."""
    panel, frames = panels(clip)[0][0], spread(len(clip), count)
    canvas = Canvas(len(frames) * (size + _GAP) - _GAP, size, _PANEL)
    for column, frame in enumerate(frames):
        place = Place(panel, Box(column * (size + _GAP), 0, size, size))
        draw_ground(canvas, place)
        draw_frame(canvas, place, frame)
    return canvas.pixels()


def spread(total: int, count: int) -> list[int]:
    """At most ``count`` of ``total`` frames, the first and the last among them."""
    numbers: list[int] = np.unique(np.linspace(0, total - 1, min(total, count)).round().astype(int)).tolist()
    return numbers


def film(clip: Clip, size: int = 336) -> Iterator[np.ndarray]:
    """Every frame: large as extracted and as the model sees it, with hands and face beside each."""
    groups = panels(clip)
    small = (size - 2 * _WORDS) // 3
    block = size + _GAP + small
    canvas = Canvas(2 * _MARGIN + len(groups) * block + _BREAK * (len(groups) - 1), _HEAD + _BREAK + size + 44, _PAPER)
    _headline(canvas, clip, "")
    places: list[Place] = []
    for number, (group, title) in enumerate(zip(groups, (clip.origin, _SEEN_BY_MODEL), strict=False)):
        x, y = _MARGIN + number * (block + _BREAK), _HEAD + _BREAK
        canvas.text(x, y - 9, title, 12, _INK, bold=True)
        places.append(Place(group[0], Box(x, y, size, size)))
        for row, panel in enumerate(group[1:]):
            places.append(Place(panel, Box(x + size + _GAP, y + row * (small + _WORDS), small, small)))
            canvas.text(places[-1].box.x, places[-1].box.y - 5, f"{panel.title} {_zoom(panel)}", 10, _SOFT)
    for place in places:
        draw_ground(canvas, place)
    canvas.rectangle(_bar(canvas, 1.0), _EDGE, radius=2)
    canvas.keep()
    for frame in range(len(clip)):
        canvas.clear()
        for place in places:
            draw_frame(canvas, place, frame)
        canvas.rectangle(_bar(canvas, (frame + 1) / len(clip)), _LEFT, radius=2)
        canvas.text(canvas.width - _MARGIN, 32, f"frame {frame + clip.pose.start}", 12, _SOFT, "right")
        yield canvas.pixels()


def _bar(canvas: Canvas, share: float) -> Box:
    return Box(_MARGIN, canvas.height - 22, max(4, (canvas.width - 2 * _MARGIN) * share), 4)


def _headline(canvas: Canvas, clip: Clip, right: str) -> None:
    canvas.text(_MARGIN, 32, clip.name[:60], 16, _INK, bold=True)
    canvas.text(canvas.width - _MARGIN, 32, right, 12, _SOFT, "right")


def _zoom(panel: Panel) -> str:
    return "" if panel.zoom == 1 else f"{panel.zoom:.1f}\u00d7"
