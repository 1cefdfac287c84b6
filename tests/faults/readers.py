"""Every reader of foreign files, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hostile_crops import crop_shard, video
from hostile_faces import cached_contents, cached_features, clip_lines, clip_table, face_picture, face_video, sound
from hostile_json import csl_news, descriptions, export_config, kept_pieces, manifest, mt5_config, state
from hostile_keypoints import frames_pickle, sequences_pickle, vectors_npz
from hostile_pickles import label_list, label_pickle, pose_npz, pose_pickle
from hostile_pose_format import pose_format
from hostile_shards import shard, shard_index
from hostile_spiece import spiece
from hostile_tables import csv_table, plain_table
from hostile_tensors import pth, pth_flags, safetensors
from hostile_yaml import corpus_yaml, flags_yaml
from reader import Reader

READERS: dict[str, Callable[[Path], Reader]] = {
    build.__name__: build
    for build in (
        *(pose_pickle, pose_npz, pose_format, shard, shard_index, crop_shard, video, label_pickle, label_list),
        *(csv_table, plain_table, csl_news, descriptions, corpus_yaml, flags_yaml),
        *(pth, pth_flags, safetensors, export_config, manifest, state, mt5_config, kept_pieces, spiece),
        *(frames_pickle, sequences_pickle, vectors_npz),
        *(sound, face_video, face_picture, clip_table, clip_lines, cached_features, cached_contents),
    )
}
