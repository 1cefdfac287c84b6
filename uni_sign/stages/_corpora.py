"""What `--dataset`, `--task` and `--mt5` name, the same for stages that read text and that sign it."""

from collections.abc import Sequence
from pathlib import Path

from uni_sign.data.corpora import Corpus, default_corpus
from uni_sign.data.mixed_corpora import load_corpora
from uni_sign.errors import InputError


def corpora_of(dataset: str, data_root: Path, default: str, notes: list[str]) -> tuple[list[Corpus], tuple[float, ...]]:
    """The corpora of ``--dataset`` and their weights, or the default one, said aloud in ``notes``."""
    if dataset:
        return load_corpora(dataset, data_root)
    corpus, said = default_corpus(data_root, default)
    notes.append(said)
    return [corpus], ()


def check_task(task: str, corpora: Sequence[Corpus]) -> None:
    """Raises InputError for a ``--task`` that a corpus has not."""
    for corpus in corpora:
        if task not in corpus.tasks:
            raise InputError(f"--task {task} is not one of {corpus.name}'s: {', '.join(corpus.tasks)}.")


def mt5_folder_of(given: str, corpora: Sequence[Corpus], data_root: Path) -> Path:
    """The folder of ``--mt5``, or the corpora's default."""
    name = "mt5-demo" if [corpus.name for corpus in corpora] == ["Demo"] else "mt5-base"
    return Path(given) if given else data_root / "pretrained_weight" / name
