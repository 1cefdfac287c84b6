"""`uni-sign pipeline`: skeleton, temporal, extraction, alignment, generated text, each a process of its own."""

import hashlib
import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from uni_sign.config import Parser, section_of
from uni_sign.engine.watchdog import STATUS_PREEMPTED
from uni_sign.errors import InputError, Preempted, RunError
from uni_sign.yaml_files import read_mapping

STAGES = ("skeleton", "temporal", "alignment")
_MARK = "pipeline.json"
_PARTS = ("model", "training", "inference")


class _Options(NamedTuple):
    config: Path
    config_override: Path | None
    stages: tuple[str, ...]
    skip_trained: bool
    inference: bool
    num_processes: int


def pipeline_parser() -> Parser:
    """The flags of the pipeline."""
    parser = Parser(prog="uni-sign pipeline")
    parser.add_argument(
        "--config", type=Path, default=Path("configs/pipeline.yaml"),
        help="YAML or JSON of all stages (default: configs/pipeline.yaml)",
    )  # fmt: skip
    parser.add_argument("--config_override", type=Path, help="another one, merged over it value by value")
    parser.add_argument(
        "--stage", choices=("all", *STAGES), default="all", help="the one to run, with its inference (default: all)"
    )
    parser.add_argument("--skip_trained", action="store_true", help="leave finished stages alone")
    parser.add_argument(
        "--no-inference", action="store_true", help="train alone: no pictures, no text; vectors are made all the same"
    )
    parser.add_argument("--num_processes", type=int, default=1, help="processes of each training (default: 1)")
    return parser


def pipeline(argv: Sequence[str]) -> int:
    """Run the stages that are asked for; raises RunError, naming the stage and its log, where one fails."""
    options = _options(argv)
    content = read_mapping(options.config)
    if options.config_override:
        content = _merged(content, read_mapping(options.config_override))
    sections = {name: _section(content, name, options.config) for name in STAGES}
    before = ""
    for number, name in enumerate(STAGES, 1):
        section = sections[name]
        before = _digest(name, section, before)
        if name not in options.stages:
            continue
        print(f"--- {number} of {len(STAGES)}: {name}", flush=True)
        folder = Path(str(section["training"].get("output_dir", f"out/{name}")))
        _train(name, section, folder, before, options)
        if name == "temporal" or options.inference:
            _infer(name, section, folder)
    return 0


def _options(argv: Sequence[str]) -> _Options:
    known = pipeline_parser().parse_words(argv)
    if known.num_processes < 1:
        raise InputError(f"--num_processes {known.num_processes} must be at least 1.")
    stages = STAGES if known.stage == "all" else (known.stage,)
    return _Options(
        known.config, known.config_override, stages, known.skip_trained, not known.no_inference, known.num_processes
    )


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Values of both, those of ``above`` first, dicts within dicts alike."""
    merged = dict(below)
    for name, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = _merged(merged[name], value) if both else value
    return merged


def _section(content: Mapping[str, Any], name: str, source: Path) -> dict[str, dict[str, Any]]:
    if not isinstance(content.get(name), Mapping):
        raise InputError(f"{source} has no section {name}: it needs model, training and inference of each stage.")
    section_of(content, name, str(source))
    return {part: dict(content[name].get(part, {})) for part in _PARTS}


def _digest(name: str, section: Mapping[str, Any], before: str) -> str:
    """Of a stage's flags and of the stages before it: what was trained with others is no result of these."""
    told = json.dumps([name, section["model"], section["training"], before], sort_keys=True, default=str)
    return hashlib.blake2b(told.encode(), digest_size=12).hexdigest()


def _train(name: str, section: Mapping[str, Any], folder: Path, flags: str, options: _Options) -> None:
    mark = _read_mark(folder)
    if mark.get("flags", flags) != flags:
        raise InputError(
            f"{folder} holds a {name} stage that was trained with other flags, or after another stage: move it away, "
            f"or give {name} another output_dir."
        )
    if mark.get("finished") and options.skip_trained:
        print(f"{name} is finished in {folder}: left alone.", flush=True)
        return
    words = ["-m", "uni_sign", "train", name, *_flags({**section["model"], **section["training"]})]
    if "output_dir" not in section["training"]:
        words += ["--output_dir", str(folder)]
    launcher = [sys.executable]
    if options.num_processes > 1:
        machine = ("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no")
        processes = ("--num_processes", str(options.num_processes), "--multi_gpu" if _gpus() else "--cpu")
        launcher += ["-m", "accelerate.commands.launch", *machine, *processes]
    _write_mark(folder, {"stage": name, "flags": flags, "finished": bool(mark.get("finished"))})
    _run(name, [*launcher, *words, "--resume", "auto"], folder)
    _write_mark(folder, {"stage": name, "flags": flags, "finished": True})


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _read_mark(folder: Path) -> dict[str, Any]:
    try:
        mark = json.loads((folder / _MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return mark if isinstance(mark, dict) else {}


def _write_mark(folder: Path, mark: Mapping[str, Any]) -> None:
    """Whole or not at all; raises InputError where the folder cannot be written."""
    partial = folder / f".{_MARK}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(mark), encoding="utf-8")
        partial.replace(folder / _MARK)
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}): choose another output_dir.") from error


def _infer(name: str, section: Mapping[str, Any], folder: Path) -> None:
    best = folder / ("best_model_stage1.pth" if name == "temporal" else "best_model.pth")
    words = ["-m", "uni_sign", "infer", name, "--checkpoint", str(best), *_flags(section["inference"])]
    _run(f"inference of {name}", [sys.executable, *words], folder)


def _flags(values: Mapping[str, Any]) -> list[str]:
    """Names and values as a command line spells them."""
    words: list[str] = []
    for name, value in values.items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        elif isinstance(value, (list, tuple)):
            words += [f"--{name}", *map(str, value)]
        elif value is not None:
            words += [f"--{name}", str(value)]
    return words


def _run(name: str, words: list[str], folder: Path) -> None:
    """One process, its output shown; raises RunError with the way on where it fails, Preempted where it was stopped."""
    print(f"$ {shlex.join(words)}", flush=True)
    process = subprocess.Popen(words)
    # Told to stop, it saves and ends by itself; this process waits for that.
    handlers = {
        number: signal.signal(number, lambda received, _: process.send_signal(received))
        for number in (signal.SIGTERM, signal.SIGUSR1)
    }
    try:
        status = process.wait()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if status == STATUS_PREEMPTED:
        raise Preempted(f"The pipeline stopped within {name}, which has saved: the same command goes on from there.")
    if status:
        raise RunError(
            f"The pipeline stopped: {name} ended with status {status}; its log is {folder / 'train.log'}, and the same "
            "command goes on from there."
        )
