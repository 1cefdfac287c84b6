"""`uni-sign doctor`: the checklist before training."""

import importlib.metadata
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import psutil
import torch

from uni_sign.config import TrainConfig, as_plain, at_least, flag, parse_flags
from uni_sign.engine.failures import memory_advice
from uni_sign.engine.launch import check_launch, process_count, with_accumulation
from uni_sign.engine.memory import Forecast, forecast
from uni_sign.errors import InputError
from uni_sign.stages.base import Finding, load_stage

_MARKS = {"pass": "PASS", "warn": "WARN", "fail": "FAIL"}
_TESTED = {
    "torch": ("2.11", "2.16"),
    "transformers": ("5", "6"),
    "deepspeed": ("0.19", ""),
    "accelerate": ("1.10", ""),
}


@dataclass(frozen=True)
class DoctorConfig:
    """The flags of the checklist alone."""

    processes: int = flag(
        0, "processes of the run to come; 0: one per GPU, or what the launcher says", check=at_least(0)
    )


def doctor(stage_name: str, argv: Sequence[str]) -> int:
    """Print the checklist; status 1 where any line fails."""
    stage_type = load_stage(stage_name)
    own, config, stage_config = parse_flags(
        argv,
        *(DoctorConfig, TrainConfig, stage_type.Config),
        program="uni-sign doctor",
        defaults=stage_type.defaults,
        section=stage_type.name,
    )
    stage = stage_type(stage_config, config.seed)
    findings = [*_versions(), *_machine(), _flags(config), _output(config), *stage.examine()]
    findings += _batch_and_memory(stage, config, own.processes or torch.cuda.device_count() or process_count())
    for finding in findings:
        remedy = f"  -> {finding.remedy}" if finding.remedy and finding.level != "pass" else ""
        print(f"{_MARKS[finding.level]}  {finding.subject:<20} {finding.detail}{remedy}")
    failed = sum(finding.level == "fail" for finding in findings)
    warned = sum(finding.level == "warn" for finding in findings)
    print(f"{len(findings) - failed - warned} pass, {warned} warn, {failed} fail")
    return 1 if failed else 0


def _versions() -> list[Finding]:
    findings = [Finding("pass", "python", sys.version.split()[0])]
    for name, (low, high) in _TESTED.items():
        version = importlib.metadata.version(name)
        fits = _numbers(version) >= _numbers(low) and (not high or _numbers(version) < _numbers(high))
        wanted = f"use {name}>={low}" + (f",<{high}" if high else "")
        findings.append(Finding("pass" if fits else "warn", name, version, f"tested elsewhere: {wanted}"))
    return findings


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("+")[0].split(".")[:2] if part.isdigit())


def _machine() -> list[Finding]:
    findings = []
    for program in ("deepspeed", "accelerate"):
        found = shutil.which(program)
        findings.append(
            Finding(
                "pass" if found else "warn",
                f"{program} launcher",
                found or "not on PATH",
                "activate the environment",
            )
        )
    if torch.cuda.is_available():
        names = {torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
        findings.append(Finding("pass", "devices", f"{torch.cuda.device_count()} x {', '.join(sorted(names))}"))
    else:
        findings.append(
            Finding("warn", "devices", f"no GPU, {os.cpu_count()} CPU cores", "fine for Demo; use --dtype fp32")
        )
    return findings


def _flags(config: TrainConfig) -> Finding:
    try:
        check_launch(config)
    except InputError as error:
        return Finding("fail", "flags", str(error), "change the flag")
    if config.dtype == "bf16" and not torch.cuda.is_available():
        return Finding("warn", "flags", "--dtype bf16 is slow on a CPU", "use --dtype fp32 here")
    return Finding("pass", "flags", f"{config.dtype}, ZeRO {config.zero_stage}, {config.opt} at {config.lr:g}")


def _output(config: TrainConfig) -> Finding:
    folder = config.output_dir
    existing = next(path for path in [folder.absolute(), *folder.absolute().parents] if path.exists())
    if not os.access(existing, os.W_OK):
        return Finding("fail", "output folder", f"{existing} cannot be written", "choose another --output_dir")
    if (folder / "log.jsonl").exists() and not config.resume:
        return Finding("fail", "output folder", f"{folder} already holds a run", "add --resume auto or choose another")
    free = shutil.disk_usage(existing).free / 1e9
    return Finding("pass" if free > 10 else "warn", "output folder", f"{folder}, {free:.0f} GB free", "free some space")


def _batch_and_memory(stage: Any, config: TrainConfig, processes: int) -> list[Finding]:
    try:
        config = with_accumulation(config, processes)
    except InputError as error:
        return [Finding("fail", "effective batch", str(error), "change the flag")]
    batch = Finding("pass", "effective batch", _effective_batch(config, processes))
    try:
        expected = forecast(stage, config, processes)
    except InputError as error:
        return [batch, Finding("fail", "memory", f"cannot be predicted: {error}", "mend the lines above")]
    needed, free = expected.peak / 1e9, psutil.virtual_memory().available
    # What this process holds now was counted as the training process's own.
    there = (torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else free + expected.process) / 1e9
    detail = f"about {needed:.2f} GB per process: {_composition(expected)}; {there:.1f} GB are free"
    findings = [batch, Finding(_level(needed, there), "memory", detail, memory_advice(config, as_plain(stage.config)))]
    if expected.host:
        local = max(1, min(processes, torch.cuda.device_count()))
        needed, there = local * expected.host / 1e9, free / 1e9
        detail = f"about {needed:.1f} GB for the offloaded optimizer of {local} processes; {there:.1f} GB are free"
        findings.append(
            Finding(_level(needed, there), "host memory", detail, "leave out --offload, or use more machines")
        )
    return findings


def _effective_batch(config: TrainConfig, processes: int) -> str:
    clips, frames = config.batch_size, config.frames_per_batch
    shares = config.gradient_accumulation_steps * processes
    cut = f"{config.gradient_accumulation_steps} accumulation x {processes} process(es)"
    if not frames:
        return f"{clips * shares} = {clips} clips x {cut}"
    return f"at most {frames * shares} frames and {clips * shares} clips = ({frames} frames, {clips} clips) x {cut}"


def _level(needed: float, there: float) -> Literal["pass", "warn", "fail"]:
    return "pass" if needed < 0.9 * there else "warn" if needed < there else "fail"


def _composition(expected: Forecast) -> str:
    """What is held at the peak."""
    if expected.start > expected.peak - expected.process - 1:
        moments = {"building the model": expected.start}
    else:
        dearer = max(expected.passes, expected.step)
        name = "forward and backward pass" if dearer == expected.passes else "optimizer step"
        moments = {"weights": expected.weights, "optimizer": expected.optimizer, name: dearer}
    parts = {"the process itself": expected.process, **moments}
    return ", ".join(f"{size / 1e9:.2f} {name}" for name, size in parts.items() if size)
