"""A text encoder that no longer changes: each description goes through it once, ever."""

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import MT5Config

from uni_sign.data.descriptions import read_descriptions
from uni_sign.data.sampled_bytes import sampled_bytes
from uni_sign.data.signs import MAX_TEXT_TOKENS
from uni_sign.data.text_cache import TextFeatures
from uni_sign.data.tokenizer import Tokenizer
from uni_sign.errors import InputError, SampleError
from uni_sign.models.mt5 import load_text_stack
from uni_sign.models.text_fusion import TextEncoder
from uni_sign.models.weights import fingerprint
from uni_sign.stages._vocabulary import frozen_vocabulary

# The stage that imports this module: a stage that its helpers imported would be a circle.
Translation = Any

_TOKENS_PER_BATCH = 16384


def frozen_text_encoder(stage: Translation) -> "FrozenTextEncoder | None":
    """The frozen text encoder, where ``--text_encoder_freeze`` asks for one; raises InputError for another one's run.

    It stands beside the model, with a vocabulary of its own: `frozen_vocabulary`.
    """
    config = stage.config
    if not config.text_encoder_freeze:
        return None
    cache = Path(config.text_cache or config.data_root / ".cache" / "text_features")
    _check_writable(cache)
    overlay, shape, tokenizer = frozen_vocabulary(stage, trained_text_encoder(stage))
    encoder = FrozenTextEncoder(stage.mt5_folder, shape, tokenizer, config.text_pooling, cache, overlay)
    wanted = stage.finetune.extras.get("text_encoder_fingerprint") if stage.finetune else None
    if wanted not in (None, encoder.fingerprint):
        raise InputError(
            f"--finetune {config.finetune} was trained with another frozen text encoder than the one of "
            f"{stage.mt5_folder} with --text_pooling {config.text_pooling}: give that run's --mt5 and pooling."
        )
    return encoder


def check_pooling(stage: Translation) -> None:
    """A model trained on other text features than these would be scored on what it never saw: InputError."""
    config = stage.config
    trained = stage.finetune.extras.get("config") if stage.finetune else None
    if not config.use_descriptions or not isinstance(trained, Mapping):
        return
    pooling = trained.get("text_pooling", config.text_pooling)
    if trained.get("use_descriptions") and pooling != config.text_pooling:
        raise InputError(
            f"--finetune {config.finetune} was trained with --text_pooling {pooling}, "
            f"not {config.text_pooling}: give the same."
        )


def trained_text_encoder(stage: Translation) -> dict[str, Tensor]:
    """Text encoder weights of --finetune, where it was trained with them."""
    prefix = "text_encoder."
    weights = stage.finetune.weights if stage.finetune else {}
    return {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)}


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(
            f"--text_cache {folder} cannot be written ({error.strerror}): choose another folder."
        ) from error


class FrozenTextEncoder:
    """Fills and reads the feature cache; the weights are loaded only while something is missing in it.

    ``overlay``: weights of a trained text encoder that take the place of the mT5 folder's.
    """

    def __init__(
        self,
        folder: Path,
        config: MT5Config,
        tokenizer: Tokenizer,
        pooling: str,
        cache: Path,
        overlay: dict[str, Tensor],
    ) -> None:
        self._folder, self._tokenizer, self._pooling, self._overlay = folder, tokenizer, pooling, overlay
        self._config = config
        self.fingerprint = self._fingerprint()
        self.features = TextFeatures(cache / self.fingerprint, self._config.d_model)

    def _fingerprint(self) -> str:
        """Encoder weights, tokenizer, pooling and length limit, as 32 hex digits."""
        digest = hashlib.blake2b(f"{self._pooling} {MAX_TEXT_TOKENS}".encode(), digest_size=16)
        digest.update(self._tokenizer.model_bytes)
        digest.update((self._folder / "config.json").read_bytes())
        if self._overlay:
            digest.update(fingerprint(self._overlay))
        else:
            for path in sorted([*self._folder.glob("*.safetensors"), *self._folder.glob("*.bin")]):
                digest.update(sampled_bytes(path))
        return digest.hexdigest()

    def fill_cache(self, description_files: Sequence[Path], accelerator: Any) -> None:
        """Collective: encode every description of the files that is not in the cache, shared out over ranks."""
        mine = description_files[accelerator.process_index :: accelerator.num_processes]
        shown = accelerator.is_main_process
        texts: dict[str, None] = {}
        for path in tqdm(mine, desc="reading descriptions", unit="file", disable=not shown, leave=False):
            try:
                texts.update(dict.fromkeys(read_descriptions(path).values()))
            except SampleError:
                continue  # named when its clip is read
        self.encode(list(texts), accelerator.device, shown)
        accelerator.wait_for_everyone()
        self.features.refresh()

    def encode(self, texts: Sequence[str], device: torch.device, shown: bool) -> None:
        """Encode the texts that the cache lacks, shortest first, and append them to it."""
        missing = self.features.missing(texts)
        if not missing:
            return
        encoder = self._encoder().to(device)
        ids = self._tokenizer.encode_all(missing, MAX_TEXT_TOKENS)
        order = np.argsort([len(row) for row in ids], kind="stable")
        writer = self.features.writer()
        with tqdm(total=len(missing), desc="encoding descriptions", unit="text", disable=not shown) as bar:
            for chosen in _batches([len(ids[i]) for i in order]):
                rows = [int(i) for i in order[chosen]]
                features = _encode(encoder, [ids[i] for i in rows], device)
                writer.append([missing[i] for i in rows], features)
                bar.update(len(rows))
        writer.close()
        self.features.refresh()

    def _encoder(self) -> TextEncoder:
        encoder = TextEncoder(self._config, self._pooling)
        if not self._overlay:
            encoder.encoder = load_text_stack(self._folder)
            return encoder.eval()
        try:
            encoder.load_state_dict(self._overlay)
        except RuntimeError as error:
            raise InputError(
                f"The text encoder in --finetune does not fit {self._folder}: {str(error).splitlines()[-1].strip()}"
            ) from error
        return encoder.eval()


@torch.inference_mode()
def _encode(encoder: TextEncoder, ids: Sequence[Sequence[int]], device: torch.device) -> np.ndarray:
    width = max(len(row) for row in ids)
    padded = torch.tensor([[*row, *[0] * (width - len(row))] for row in ids], device=device)
    return encoder([padded]).float().cpu().numpy()


def _batches(lengths: Sequence[int]) -> list[slice]:
    """Slices of ascending ``lengths`` whose padded size stays within the token budget."""
    slices, start = [], 0
    for end in range(1, len(lengths) + 1):
        full = end == len(lengths) or (end + 1 - start) * lengths[end] > _TOKENS_PER_BATCH
        if full:
            slices.append(slice(start, end))
            start = end
    return slices
