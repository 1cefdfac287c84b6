"""Deterministic weight recipe for golden cases whose state_dict is too big to store.

Independent of torch/numpy RNG implementations: splitmix64 over (crc32(key), index).
A recipe JSON maps key -> {"shape": [...], "mid": m, "amp": a, "sha256": hex of little-endian float32 bytes}
value[i] = float32(m + a * u[i]),  u uniform in [-1, 1).
`alias` entries ({"alias": other_key}) are tied tensors (upstream shares the module).
Small tensors may be stored literally: {"npz": name} -> array `name` in the sibling npz.
"""

import hashlib
import zlib

import numpy as np


def _splitmix64(x):
    x = (x + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    z = x
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def uniform_pm1(key, n):
    with np.errstate(over="ignore"):
        base = np.uint64(zlib.crc32(key.encode())) << np.uint64(32)
        z = _splitmix64(base + np.arange(n, dtype=np.uint64))
    return (z >> np.uint64(40)).astype(np.float64) / 2.0**23 - 1.0  # 24 bits


def tensor(key, shape, mid, amp):
    n = int(np.prod(shape)) if len(shape) else 1
    return (mid + amp * uniform_pm1(key, n)).astype("<f4").reshape(shape)


def sha(a):
    return hashlib.sha256(np.ascontiguousarray(a, dtype="<f4").tobytes()).hexdigest()


def build(recipe, npz=None, check=True):
    """recipe: dict loaded from JSON -> {key: float32 ndarray (or int64 scalar)}"""
    out = {}
    for k, r in recipe.items():
        if "alias" in r:
            continue
        if "const_int" in r:
            out[k] = np.array(r["const_int"], dtype=np.int64)
            continue
        a = npz[r["npz"]] if "npz" in r else tensor(r.get("rng_key", k), r["shape"], r["mid"], r["amp"])
        if check and "sha256" in r:
            assert sha(a) == r["sha256"], k
        out[k] = a
    for k, r in recipe.items():
        if "alias" in r:
            out[k] = out[r["alias"]]
    return out


def default_spec(key, shape):
    """mid/amp used when the golden data was generated"""
    if key.endswith("running_mean"):
        return 0.0, 0.1
    if key.endswith("running_var"):
        return 1.0, 0.4
    if key.endswith(".A"):
        return None
    if len(shape) <= 1:
        if key.endswith("weight") or "layer_norm" in key:
            return 1.0, 0.2
        return 0.0, 0.1
    fan_in = int(np.prod(shape[1:]))
    return 0.0, float(np.float32((3.0 / fan_in) ** 0.5))
