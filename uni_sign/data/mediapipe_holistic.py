"""143 points of a picture by MediaPipe's holistic landmarker, from a local `.task` file.

`FACE_68` says which of MediaPipe's 478 face points are the 68 that are kept: regions as in
`uni_sign.models.hierarchical.FACE_REGIONS`, jaw, two brows, nose, two eyes, outer and inner lips. Files made with
another table are other data: `--face_table` names a JSON list of 68 numbers, and what made a file is written into it.
"""

import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from uni_sign.data.holistic import POINTS, REGIONS, SLICES
from uni_sign.errors import InputError

FACE_POINTS = 478
_JAW = (162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389)
_BROWS = (71, 63, 105, 66, 107, 336, 296, 334, 293, 301)
_NOSE = (168, 197, 5, 4, 75, 97, 2, 326, 305)
_EYES = (33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380)
_LIPS = (61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317, 14, 87)
FACE_68 = (*_JAW, *_BROWS, *_NOSE, *_EYES, *_LIPS)
# The landmarker is one library call from native code, which a damaged file can end: it is tried elsewhere first.
_PROBE = "import sys; from uni_sign.data.mediapipe_holistic import Holistic; Holistic(sys.argv[1]).close()"


def read_face_table(path: Path) -> tuple[int, ...]:
    """68 numbers of face points from a JSON list. Raises InputError for anything else."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"--face_table {path} is no JSON list: {type(error).__name__}.") from error
    good = isinstance(table, list) and all(type(place) is int and 0 <= place < FACE_POINTS for place in table)
    if not good or len(table) != REGIONS["face"]:
        raise InputError(f"--face_table {path} must be a list of 68 whole numbers from 0 to {FACE_POINTS - 1}.")
    return tuple(table)


def check_task(task: Path, face_table: Sequence[int] = FACE_68) -> dict[str, str]:
    """What is written into files made by both; raises InputError where MediaPipe cannot use the ``task``."""
    if not task.is_file():
        raise InputError(
            f"No model file {task.name} in {task.parent}: put MediaPipe's holistic_landmarker.task there, or name it "
            "with --task."
        )
    done = subprocess.run([sys.executable, "-c", _PROBE, str(task)], capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.strip().splitlines() if line.strip()][-1:]
        if "No module named 'mediapipe'" in done.stderr:
            raise InputError("--holistic needs MediaPipe: pip install 'uni-sign[holistic]'.")
        raise InputError(
            f"{task} is no holistic landmarker that MediaPipe can use ({''.join(said)[:200]}): get it anew."
        )
    digest = hashlib.sha256(task.read_bytes()).hexdigest()[:12]
    kept = hashlib.sha256(repr(tuple(face_table)).encode()).hexdigest()[:8]
    return {"name": "mediapipe-holistic", "version": digest, "mode": f"video, face table {kept}"}


class Holistic:
    """The landmarker over the frames of one clip after another."""

    def __init__(self, task: str, face_table: Sequence[int] = FACE_68) -> None:
        import mediapipe
        from mediapipe.tasks.python import BaseOptions, vision

        self._image: Any = mediapipe.Image
        self._format: Any = mediapipe.ImageFormat.SRGB
        self._vision, self._base, self._face = vision, BaseOptions(model_asset_path=task), list(face_table)
        self._landmarker = self._new()
        self._time = 0

    def _new(self) -> Any:
        mode = self._vision.RunningMode.VIDEO
        options = self._vision.HolisticLandmarkerOptions(base_options=self._base, running_mode=mode)
        return self._vision.HolisticLandmarker.create_from_options(options)

    def start_clip(self) -> None:
        """What it tracked in the clip before is forgotten."""
        self._landmarker.close()
        self._landmarker, self._time = self._new(), 0

    def frame(self, picture: np.ndarray, milliseconds: int) -> tuple[np.ndarray, np.ndarray]:
        """Points (143, 3) in shares of a picture (H, W, 3), and which regions are there (4,).

        The hands are those that the landmarker takes for left and right.
        """
        self._time = max(self._time + 1, milliseconds)  # it refuses a time that does not grow
        image = self._image(image_format=self._format, data=np.ascontiguousarray(picture))
        found = self._landmarker.detect_for_video(image, self._time)
        points, present = np.zeros((POINTS, 3), np.float32), np.zeros(len(REGIONS), bool)
        for number, (region, own) in enumerate(SLICES.items()):
            landmarks = getattr(found, f"{region}_landmarks")
            if region == "face" and landmarks:
                landmarks = [landmarks[place] for place in self._face]
            if len(landmarks or ()) == REGIONS[region]:
                points[own] = [(one.x, one.y, one.z) for one in landmarks]
                present[number] = True
        return points, present

    def close(self) -> None:
        """Free what native code holds."""
        self._landmarker.close()
