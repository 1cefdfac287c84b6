"""What `uni-sign doctor` says of a fine-tuning's files: every fault, not the first alone."""

from collections.abc import Callable
from typing import Any, Literal

from uni_sign.data.corpora import SPLITS
from uni_sign.data.shards import told_shares
from uni_sign.errors import InputError
from uni_sign.models.weights import compared
from uni_sign.stages._vocabulary import starting_weights
from uni_sign.stages.base import Finding

# The stage that imports this module: a stage that its helpers imported would be a circle.
Translation = Any


def examination(stage: Translation) -> list[Finding]:
    """Corpus, labels, poses, descriptions, mT5 and checkpoints: each pass, warn or fail."""
    config = stage.config
    corpus = _finding("corpus", "set --dataset and --task", lambda: _corpus(stage))
    if corpus.level == "fail":
        return [corpus]
    findings = [corpus, _finding("mT5 folder", "put google/mt5-base there or set --mt5", lambda: _mt5(stage))]
    for split in SPLITS:
        findings += _labels(stage, split)
        if config.use_descriptions:
            findings.append(_coverage(stage, split))
        if config.rgb_support:
            findings.append(_videos(stage, split))
    if not any(finding.level == "fail" for finding in findings):
        findings.append(_prepared(stage))
    if config.finetune or config.fusion_checkpoint:
        findings.append(_finding("checkpoints", "give a Uni-Sign checkpoint", lambda: _checkpoints(stage)))
    if not any(finding.level == "fail" for finding in findings):
        findings.append(_finding("all together", "change what is named", lambda: _everything(stage)))
    return findings


def _finding(subject: str, remedy: str, describe: Callable[[], str]) -> Finding:
    try:
        return Finding("pass", subject, describe())
    except InputError as error:
        return Finding("fail", subject, str(error), remedy)


def _everything(stage: Translation) -> str:
    stage.check()
    return "what training itself checks before it starts"


def _mt5(stage: Translation) -> str:
    config, folder = stage.mt5_config, stage.mt5_folder
    if not any([*folder.glob("*.safetensors"), *folder.glob("*.bin")]) and not stage.config.finetune:
        raise InputError(f"{folder} holds no weights (*.safetensors or *.bin).")
    kept, pieces = f"{stage.kept} of " if stage.kept else "", len(stage.folder_tokenizer)
    return f"{folder}: d_model {config.d_model}, {kept}{pieces:,} pieces"


def _corpus(stage: Translation) -> str:
    task = stage.config.task
    for corpus in stage.corpora:
        if task not in corpus.tasks:
            raise InputError(f"{corpus.name} has no task {task}.")
    return "; ".join(f"{corpus.name}, {task}, poses in {corpus.pose_dir}" for corpus in stage.corpora)


def _checkpoints(stage: Translation) -> str:
    found = [c for c in (stage.finetune, stage.fusion_checkpoint) if c is not None]
    if stage.finetune is not None:
        compared(stage.meta_model(), starting_weights(stage))
    return "; ".join(f"{c.source}: {len(c.weights)} tensors" for c in found)


def _labels(stage: Translation, split: str) -> list[Finding]:
    try:
        found = stage.read_split(split)
    except InputError as error:
        return [Finding("fail", f"{split} labels", str(error), "mend or move the named file")]
    findings = [Finding("pass", f"{split} labels", f"{len(found.samples)} usable clips")]
    if found.problems:
        detail = f"{len(found.problems)} clips are unusable, first: {found.problems[0]}"
        findings.append(Finding("warn", f"{split} clips", detail, "they are left out of training"))
    return findings


def _prepared(stage: Translation) -> Finding:
    subject = "prepared shards"
    try:
        shards = stage.shards
    except InputError as error:
        return Finding("fail", subject, str(error), "delete the named file")
    if shards is None:
        return Finding("pass", subject, "none: poses are read from their files; `uni-sign prepare` makes that faster")
    rows = {name: shards.locate(split.samples) for name, split in stage.splits.items()}
    current = all((found >= 0).all() for found in rows.values())
    detail = told_shares(shards.folder, rows)
    return Finding("pass" if current else "warn", subject, detail, "the other clips are read from their own files")


def _videos(stage: Translation, split: str) -> Finding:
    subject = f"{split} videos"
    try:
        clips = len(stage.read_split(split, videos=False).samples)
        samples = stage.read_split(split).samples
        shards = stage.crop_shards
    except InputError as error:
        return Finding("fail", subject, str(error), "mend or move what is named")
    kept = int((shards.locate(samples) >= 0).sum()) if shards else 0
    detail = f"{len(samples)} of {clips} clips have a video; the hand crops of {kept} are prepared"
    folders = " or ".join(str(corpus.video_dir) for corpus in stage.corpora)
    if len(samples) < clips:
        return Finding("warn", subject, detail, f"put the others into {folders}: such clips are left out")
    if kept < clips:
        detail += ", `uni-sign prepare --crops` makes the others faster"
    return Finding("pass", subject, detail)


def _coverage(stage: Translation, split: str) -> Finding:
    subject = f"{split} descriptions"
    try:
        samples = stage.read_split(split).samples
    except InputError as error:
        return Finding("fail", subject, str(error), "mend the labels first")
    described = int(samples.described.sum())
    detail = f"{described} of {len(samples)} clips ({100 * described / len(samples):.1f} %)"
    if described == 0:
        places = " or ".join(str(folder) for corpus in stage.corpora for folder in corpus.description_dirs)
        return Finding("fail", subject, detail, f"put <clip>.json files into {places}")
    level: Literal["pass", "warn"] = "pass" if described >= 0.5 * len(samples) else "warn"
    return Finding(level, subject, detail, "clips without a file train on their poses alone")
