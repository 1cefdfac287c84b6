"""133 points of a person by ONNX models from local files: a YOLOX detector, and RTMPose or RTMW with SimCC outputs.

Sizes, colours (BGR), mean and deviation, padding and the order of the 133 points are those of the rtmlib package, by
which the published poses were extracted (RTMPose, arXiv 2303.07399; RTMW, arXiv 2407.08634; YOLOX, arXiv 2107.08430).
"""

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from uni_sign.data.wholebody import POINTS
from uni_sign.errors import InputError

_GREY = 114  # beside an image that does not fill the detector's input
_LEAST_SCORE = 0.3
_OVERLAP = 0.45  # of two boxes of one person
_STRIDES = (8, 16, 32)
_PADDING = 1.25
_MEAN = np.array((123.675, 116.28, 103.53), np.float32)
_DEVIATION = np.array((58.395, 57.12, 57.375), np.float32)
_SPLIT = 2  # places of a SimCC output for each pixel of the input
_PEOPLE = 0  # the detector's class
_SIZES = {"detector": (640, 640), "pose_model": (384, 288)}  # (height, width) where the model takes any


class OnnxModel:
    """A model file and the height and width of its input; raises InputError where it is missing or of another kind."""

    def __init__(self, path: Path, flag: str, device: str = "cpu") -> None:
        self.path = path
        self.digest = hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest() if path.is_file() else ""
        try:
            import onnxruntime
        except ImportError:
            raise InputError("uni-sign extract needs onnxruntime: pip install '.[extract]' here.") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1 if device == "cpu" else 0
        providers = ["CUDAExecutionProvider"] if device == "cuda" else ["CPUExecutionProvider"]
        if providers[0] not in onnxruntime.get_available_providers():
            raise InputError("--device cuda needs onnxruntime-gpu: pip install it instead of onnxruntime.")
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
            [given] = self._session.get_inputs()
            batch, channels, height, width = given.shape
        except Exception as error:  # of what is no model, onnxruntime raises types of its own
            reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
            raise InputError(f"--{flag} {path} is no ONNX model of one image input ({reason}): get it anew.") from None
        if channels != 3:
            raise InputError(f"--{flag} {path} takes {channels} channels, not an image of 3: give another model.")
        self._name, self._single = given.name, batch == 1
        whole = isinstance(height, int) and isinstance(width, int)
        self.size: tuple[int, int] = (height, width) if whole else _SIZES[flag]

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """Outputs for images (n, 3, H, W) float32, one by one where the model takes no more."""
        if not self._single:
            return [np.asarray(output) for output in self._session.run(None, {self._name: images})]
        each = [self._session.run(None, {self._name: images[i : i + 1]}) for i in range(len(images))]
        return [np.concatenate(outputs) for outputs in zip(*each, strict=True)]


def detected(model: OnnxModel, frames: Sequence[np.ndarray]) -> list[np.ndarray]:
    """People of each RGB frame (H, W, 3): (k, 5) left, top, right, bottom in pixels, and score; best first."""
    height, width = model.size
    ratios = [min(height / frame.shape[0], width / frame.shape[1]) for frame in frames]
    inputs = np.full((len(frames), height, width, 3), _GREY, np.uint8)
    for place, (frame, ratio) in enumerate(zip(frames, ratios, strict=True)):
        size = (max(1, int(frame.shape[1] * ratio)), max(1, int(frame.shape[0] * ratio)))
        inputs[place, : size[1], : size[0]] = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR))
    outputs = model.run(_planes(inputs.astype(np.float32)))
    return [_people(model, [o[i] for o in outputs], ratio) for i, ratio in enumerate(ratios)]


def _planes(images: np.ndarray) -> np.ndarray:
    """RGB images (n, H, W, 3) to planes of blue, green and red (n, 3, H, W)."""
    return np.ascontiguousarray(images[..., ::-1].transpose(0, 3, 1, 2))


def _people(model: OnnxModel, outputs: list[np.ndarray], ratio: float) -> np.ndarray:
    rows = outputs[0]
    if rows.ndim != 2 or rows.shape[1] < 5:
        raise InputError(f"--detector {model.path} gives {rows.shape} for a frame: it is no YOLOX detector.")
    if rows.shape[1] == 5:  # the model itself leaves out overlapping boxes
        boxes, scores = rows[:, :4], rows[:, 4]
        classes = outputs[1].reshape(-1) if len(outputs) > 1 else np.zeros(len(rows))
        kept = (scores > _LEAST_SCORE) & (classes == _PEOPLE)
        found = np.column_stack([boxes[kept] / ratio, scores[kept]])
    else:
        boxes, scores = _decoded(model, rows)
        kept = scores > _LEAST_SCORE
        found = _without_overlaps(np.column_stack([boxes[kept] / ratio, scores[kept]]))
    return found[np.argsort(-found[:, 4], kind="stable")]


def _decoded(model: OnnxModel, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (n, 4) and people's scores (n,) of a YOLOX model's raw rows, which count from the cells of three grids."""
    cells, steps = [], []
    for stride in _STRIDES:
        y, x = np.mgrid[: model.size[0] // stride, : model.size[1] // stride]
        cells.append(np.stack([x, y], -1).reshape(-1, 2))
        steps.append(np.full((x.size, 1), stride))
    cell, step = np.concatenate(cells), np.concatenate(steps)
    if len(cell) != len(rows):
        raise InputError(f"--detector {model.path} gives {len(rows)} boxes, not {len(cell)}: it is no YOLOX detector.")
    centre, half = (rows[:, :2] + cell) * step, np.exp(rows[:, 2:4]) * step / 2
    return np.hstack([centre - half, centre + half]), rows[:, 4] * rows[:, 5 + _PEOPLE]


def _without_overlaps(boxes: np.ndarray) -> np.ndarray:
    """The best of each group of boxes (n, 5) that overlap."""
    left = boxes[np.argsort(-boxes[:, 4], kind="stable")]
    kept = []
    while len(left):
        kept.append(left[0])
        left = left[1:][overlaps(left[0], left[1:]) <= _OVERLAP]
    return np.array(kept).reshape(-1, 5)


def overlaps(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Intersection over union of a box with others (n, 4 or more): (n,)."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:4], boxes[:, 2:4])
    common = np.prod(np.clip(high - low, 0, None), axis=1)
    areas = np.prod(boxes[:, 2:4] - boxes[:, :2], axis=1) + np.prod(box[2:4] - box[:2])
    return np.asarray(common / np.maximum(areas - common, 1e-9))


def estimated(model: OnnxModel, frames: Sequence[np.ndarray], boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, 133, 2) in pixels and scores (n, 133) of the person in each frame's box (n, 4)."""
    size = np.array(model.size[::-1], np.float64)
    extent = (boxes[:, 2:4] - boxes[:, :2]) * _PADDING
    # The box takes the shape of the input, and no part of it is lost.
    wide = extent[:, :1] > extent[:, 1:] * size[0] / size[1]
    extent = np.where(wide, extent[:, :1] * (1, size[1] / size[0]), extent[:, 1:] * (size[0] / size[1], 1))
    corners = (boxes[:, :2] + boxes[:, 2:4]) / 2 - extent / 2
    inputs = np.stack([_cut(*given, model.size) for given in zip(frames, corners, extent / size, strict=True)])
    outputs = model.run((_planes(inputs.astype(np.float32)) - _MEAN[:, None, None]) / _DEVIATION[:, None, None])
    if len(outputs) != 2 or any(o.ndim != 3 or o.shape[1] != POINTS for o in outputs):
        shapes = ", ".join(str(output.shape[1:]) for output in outputs)
        raise InputError(f"--pose_model {model.path} gives {shapes} for a person, not two of {POINTS} points.")
    best = np.stack([output.argmax(-1) for output in outputs], -1)
    scores = np.minimum(*(output.max(-1) for output in outputs))
    points = best / _SPLIT * (extent / size)[:, None] + corners[:, None]
    seen = scores > 0
    return np.where(seen[..., None], points, 0), np.where(seen, scores, 0)


def _cut(frame: np.ndarray, corner: np.ndarray, step: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The frame at ``corner`` + place * ``step`` of each place of an image of ``size`` (H, W), black outside."""
    # Pillow counts from the corners of pixels, and the models from their centres.
    shift = corner + 0.5 - 0.5 * step
    matrix = (step[0], 0, shift[0], 0, step[1], shift[1])
    image = Image.fromarray(frame)
    return np.asarray(image.transform(size[::-1], Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR))


def signer_track(boxes: Sequence[np.ndarray], width: int, height: int) -> list[int]:
    """Of each frame's people (k, 5), the signer's number, or -1 where there is nobody: one way through the clip.

    The best sum, over all frames, of score and of share of the image's side, less what jumping from box to box costs
    in diagonals of the image (Viterbi's algorithm).
    """
    diagonal = float(np.hypot(width, height))
    shown = [i for i, found in enumerate(boxes) if len(found)]
    track = [-1] * len(boxes)
    if not shown:
        return track
    worth: Any = _worth(boxes[shown[0]], diagonal)
    came: list[np.ndarray] = []
    for before, now in pairwise(shown):
        jumps = np.linalg.norm(_centres(boxes[now])[:, None] - _centres(boxes[before])[None], axis=-1) / diagonal
        ways = worth[None] - jumps
        came.append(ways.argmax(1))
        worth = ways.max(1) + _worth(boxes[now], diagonal)
    chosen = int(worth.argmax())
    for place in range(len(shown) - 1, -1, -1):
        track[shown[place]] = chosen
        if place:
            chosen = int(came[place - 1][chosen])
    return track


def _centres(boxes: np.ndarray) -> np.ndarray:
    return np.asarray((boxes[:, :2] + boxes[:, 2:4]) / 2)


def _worth(boxes: np.ndarray, diagonal: float) -> np.ndarray:
    return np.asarray(boxes[:, 4] + np.linalg.norm(boxes[:, 2:4] - boxes[:, :2], axis=1) / diagonal)
