"""The parts that the model sees as one vector a frame, and back to a pose: what signing is generated as."""

from collections.abc import Mapping

import numpy as np

from uni_sign.data.wholebody import ORIGINS, PARTS, POINTS, USED_POINTS, Pose

POSE_VALUES = 3 * USED_POINTS
_POINTS_OF = np.array([point for points in PARTS.values() for point in points])
_ENDS = np.cumsum([len(points) for points in PARTS.values()])
# The body's point that each other part hangs on: wrists and nose.
_HANGS_ON = {"left": 9, "right": 10, "face_all": 0}


def pose_vectors(parts: Mapping[str, np.ndarray]) -> np.ndarray:
    """Normalised parts (T, V, 3) of x, y and score, see `normalized_parts`, side by side: (T, `POSE_VALUES`)."""
    return np.concatenate([parts[name].reshape(len(parts[name]), -1) for name in PARTS], axis=1)


def joints(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the points of all parts are, (T, `USED_POINTS`, 2), and their scores (T, `USED_POINTS`).

    In shares of the square round the body: hands are put to its wrists, the face to its nose.
    """
    points = vectors.reshape(len(vectors), USED_POINTS, 3)
    xy, scores = points[..., :2].copy(), points[..., 2].clip(0, 1)
    body = list(PARTS["body"])
    xy[:, : len(body)] = xy[:, : len(body)] / 2 + 0.5
    for number, part in enumerate(PARTS):
        if part in ORIGINS:
            own = slice(_ENDS[number - 1], _ENDS[number])
            xy[:, own] += xy[:, None, body.index(_HANGS_ON[part])]
    return xy, scores


def pose_of_vectors(vectors: np.ndarray) -> Pose:
    """Vectors (T, `POSE_VALUES`) to a pose of 133 points, of which those that no part has were not seen."""
    keypoints, scores = np.zeros((len(vectors), POINTS, 2), np.float32), np.zeros((len(vectors), POINTS), np.float32)
    keypoints[:, _POINTS_OF], scores[:, _POINTS_OF] = joints(vectors)
    return Pose(keypoints, scores)
