"""Which part of mT5's vocabulary a fine-tuning keeps, and which part it generates from."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from uni_sign.data.descriptions import read_descriptions
from uni_sign.data.signs import prompt
from uni_sign.data.tokenizer import Tokenizer
from uni_sign.data.vocabulary import Kept, kept_from, needed_pieces, read_kept, tokenizer_digest
from uni_sign.errors import InputError, SampleError
from uni_sign.models.vocabulary import sliced, vocabulary_sizes
from uni_sign.models.weights import Checkpoint

# The stage that imports this module: a stage that its helpers imported would be a circle.
Translation = Any

_KEPT, _GENERATED = "kept_pieces", "generated_pieces"  # in checkpoints


def kept_pieces(stage: Translation) -> Kept | None:
    """What the model keeps of the full vocabulary: the mT5 folder's part, the checkpoint's, or what the corpus needs.

    None where it keeps all. Raises InputError where flags, folder and checkpoint do not go together.
    """
    config, of_folder = stage.config, read_kept(stage.mt5_folder)
    of_checkpoint = _held(stage, _KEPT)
    kept = of_folder
    if of_folder is not None:
        _check_folder(stage, of_folder)
    elif of_checkpoint is not None:
        _check_original(stage, of_checkpoint)
        kept = of_checkpoint if config.trim_vocab else None
    elif config.trim_vocab:
        kept = _needed(stage)
    if of_checkpoint not in (None, kept):
        here = kept or "all of it"
        raise InputError(
            f"--finetune {config.finetune} keeps {of_checkpoint} of its mT5's vocabulary, and this run {here}: give "
            "--trim_vocab or that run's --mt5, or widen it by `uni-sign export ... --full_vocab MT5_FOLDER`."
        )
    if kept is not None and stage.trains_text and not kept.described:
        source = f"--finetune {config.finetune}" if of_checkpoint else stage.mt5_folder
        raise InputError(
            f"{source} was trimmed without the pieces of descriptions: add --text_encoder_freeze, "
            "or start from a full vocabulary."
        )
    return kept


def _check_folder(stage: Translation, kept: Kept) -> None:
    if stage.config.trim_vocab:
        raise InputError(f"--trim_vocab: {stage.mt5_folder} is trimmed already: leave the flag out.")
    sizes = {len(kept.ids), len(stage.folder_tokenizer), stage.folder_config.vocab_size}
    if len(sizes) > 1:
        raise InputError(f"{stage.mt5_folder} mixes files of different vocabularies: make it anew by `uni-sign trim`.")


def generated_pieces(stage: Translation) -> Kept | None:
    """The pieces that --constrain_vocab holds generation to, those that --trim_vocab would keep; None: all.

    A checkpoint remembers those of its own corpus, so that `uni-sign infer` needs no corpus.
    """
    if not stage.config.constrain_vocab:
        return None
    remembered = _held(stage, _GENERATED)
    if remembered is None or not _same_corpus(stage):
        return _needed(stage)
    _check_original(stage, remembered)
    return remembered


def _same_corpus(stage: Translation) -> bool:
    trained = stage.finetune.extras.get("config")
    own = stage.config.dataset, stage.config.task
    return isinstance(trained, Mapping) and (trained.get("dataset"), trained.get("task")) == own


def _held(stage: Translation, name: str) -> Kept | None:
    found = stage.finetune.extras.get(name) if stage.finetune else None
    return None if found is None else kept_from(found, f"--finetune {stage.config.finetune}")


def _check_original(stage: Translation, kept: Kept) -> None:
    """The pieces must be those of the mT5 folder."""
    tokenizer, rows = stage.folder_tokenizer, stage.folder_config.vocab_size
    if (kept.tokenizer, kept.rows) != (tokenizer_digest(tokenizer), rows) or kept.ids[-1] >= len(tokenizer):
        raise InputError(
            f"--finetune {stage.config.finetune} was trained with a part of another vocabulary than that of "
            f"{stage.mt5_folder}: give that run's --mt5."
        )


def _needed(stage: Translation) -> Kept:
    tokenizer = stage.folder_tokenizer
    ids = needed_pieces(tokenizer, _texts(stage))
    return Kept(ids, stage.folder_config.vocab_size, tokenizer_digest(tokenizer), stage.trains_text)


def _texts(stage: Translation) -> Iterator[Sequence[str]]:
    """All that the model reads or writes as text: targets of all splits, prompts, and descriptions it encodes."""
    yield [prompt(corpus.language) for corpus in stage.corpora]
    for split in stage.splits.values():
        yield split.samples.targets
        yield [prompt(language) for language in sorted(split.samples.languages.distinct)]
        for path in [sample.description_path for sample in split.samples if stage.trains_text]:
            try:
                yield sorted(set(read_descriptions(path).values())) if path else []
            except SampleError:
                continue  # named when its clip is read


def fitted(stage: Translation, own: Any, loaded: Any) -> Any:
    """The mT5 (or its encoder) that the folder gave, cut to the vocabulary of the model's ``own``."""
    if stage.kept is None or own.config.vocab_size == loaded.config.vocab_size:
        return loaded
    own.load_state_dict(sliced(loaded.state_dict(), stage.kept.ids, loaded.config.vocab_size))
    return own


def starting_weights(stage: Translation) -> Checkpoint:
    """The checkpoint of --finetune, cut to the vocabulary that the model keeps."""
    given, kept = stage.finetune, stage.kept
    if kept is None:
        return given
    sizes = vocabulary_sizes(given.weights)
    if _KEPT not in given.extras and any(size != kept.rows for size in sizes.values()):
        name, size = next((name, size) for name, size in sizes.items() if size != kept.rows)
        raise InputError(
            f"{given.source} has {size:,} rows in {name}, not {kept.rows:,}, and does not say of which pieces: "
            "give the best_checkpoint.pth of its run."
        )
    return Checkpoint(given.source, sliced(given.weights, kept.ids, kept.rows), given.extras)


def frozen_vocabulary(stage: Translation, trained: dict[str, Tensor]) -> tuple[dict[str, Tensor], Any, Tokenizer]:
    """Weights, configuration and tokenizer of a frozen text encoder: it keeps the vocabulary that it was trained with.

    ``trained``: its weights where --finetune holds some, else empty: then all is the mT5 folder's.
    """
    kept, whole = stage.kept, (stage.folder_config, stage.folder_tokenizer)
    if kept is None or not trained:
        return trained, *whole
    if read_kept(stage.mt5_folder) is not None:
        return sliced(trained, kept.ids, kept.rows), *whole
    trimmed = set(vocabulary_sizes(trained).values()) == {len(kept.ids)}
    return trained, *((stage.mt5_config, stage.tokenizer) if trimmed else whole)


def vocabulary_extras(stage: Translation) -> dict[str, Any]:
    """What a checkpoint remembers of its vocabulary."""
    parts = {_KEPT: stage.kept, _GENERATED: stage.generated}
    return {name: part.plain() for name, part in parts.items() if part is not None}


def vocabulary_notes(stage: Translation) -> list[str]:
    """What is said at the start: the pieces kept, and how many targets a checkpoint's pieces cut smaller."""
    if stage.generated is not None:
        return [f"Vocabulary: generation is held to {stage.generated}."]
    if stage.kept is None:
        return []
    notes = [f"Vocabulary: {stage.kept} of {stage.kept.rows:,} rows."]
    if stage.config.trim_vocab and _held(stage, _KEPT):
        ids, kept = stage.folder_tokenizer.encode_all, set(stage.kept.ids)
        targets = [target for split in stage.splits.values() for target in split.samples.targets]
        finer = sum(not kept.issuperset(row) for row in ids(targets))
        if finer:
            notes.append(
                f"{finer} of {len(targets)} targets need pieces that --finetune {stage.config.finetune} does not keep "
                "and are cut into smaller ones; `uni-sign export ... --full_vocab MT5_FOLDER` gives it all."
            )
    return notes
