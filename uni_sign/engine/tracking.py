"""What a person sees of a run: progress bar, log.jsonl, train.log, pictures, W&B and TensorBoard."""

import json
import math
import netrc
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from uni_sign.config import TrainConfig, tags_of
from uni_sign.errors import InputError
from uni_sign.stages.base import Evaluation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WANDB_INIT_SECONDS = 30
_TABLE_ROWS = 50
_DRAWING_PAUSE = 20.0  # seconds: a picture takes half of one


class Tracker:
    """Rank 0 writes; on the other ranks every method does nothing, so callers need no rank test."""

    def __init__(self, output_dir: Path, active: bool) -> None:
        self.output_dir, self.active = output_dir, active
        self._bar: Any = None
        self._records: Any = None
        self._wandb: Any = None
        self._tensorboard: Any = None
        self._drawn_at: dict[str, float] = {}  # by the monotonic clock
        if active:
            (output_dir / "pictures").mkdir(parents=True, exist_ok=True)
            self._log = (output_dir / "train.log").open("a", encoding="utf-8")

    def start(self, config: TrainConfig, plain: Mapping[str, Any], resumed_step: int, run_id: str | None) -> str | None:
        """Open log.jsonl at ``resumed_step`` and the trackers asked for; returns the W&B run id, if any.

        Until then nothing goes to log.jsonl or a tracker: a run that only scores leaves a trained run's log alone.
        """
        if not self.active:
            return None
        path = self.output_dir / "log.jsonl"
        records = [json.loads(line) for line in _lines(path)] if resumed_step else []
        kept = [json.dumps(r) for r in records if r["step"] <= resumed_step and not any("best/" in name for name in r)]
        path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        self._records = path.open("a", encoding="utf-8")
        names = _trackers(config)
        if "tensorboard" in names:
            self._tensorboard = _tensorboard_writer(self.output_dir / "tensorboard")
        if "wandb" in names:
            self._wandb = self._start_wandb(config, plain, run_id)
        return self._wandb.id if self._wandb else None

    def _start_wandb(self, config: TrainConfig, plain: Mapping[str, Any], run_id: str | None) -> Any:
        import wandb

        if os.environ.get("WANDB_MODE") not in ("offline", "disabled") and not _has_wandb_key():
            self.say("W&B has no key: logging offline; `wandb sync` uploads later.")
            os.environ["WANDB_MODE"] = "offline"
        options: dict[str, Any] = {
            "project": config.wandb_project or os.environ.get("WANDB_PROJECT", "uni_sign"),
            "entity": config.wandb_entity or None,
            "name": config.wandb_run_name or None,
            "tags": tags_of(config.wandb_tags) or None,
            "dir": str(self.output_dir),
            "config": dict(plain),
            "id": run_id,
            "resume": "allow",
            "settings": wandb.Settings(init_timeout=_WANDB_INIT_SECONDS, silent=True),
        }
        try:
            return wandb.init(**options)
        except (wandb.Error, OSError, TimeoutError) as error:
            self.say(f"W&B is out of reach ({type(error).__name__}): logging offline; `wandb sync` uploads later.")
            return wandb.init(**options, mode="offline")

    def say(self, text: str) -> None:
        """One line to the terminal, above the progress bar, and to train.log."""
        if not self.active:
            return
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()
        self._log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
        self._log.flush()

    def progress(self, total: int, done: int) -> None:
        """Show the bar of a run of ``total`` optimizer steps, ``done`` of which are behind."""
        if self.active:
            self._bar = tqdm(total=total, initial=done, unit="step", dynamic_ncols=True, mininterval=0.5)

    def advance(self, shown: Mapping[str, str]) -> None:
        """One optimizer step further, with a few figures beside the bar."""
        if self._bar is not None:
            self._bar.set_postfix(shown, refresh=False)
            self._bar.update()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Scalars by name to log.jsonl and every tracker."""
        if self._records is None:
            return
        self._records.write(json.dumps({"step": step, **values}, allow_nan=False) + "\n")
        self._records.flush()
        if self._wandb:
            self._wandb.log(dict(values), step=step)
        if self._tensorboard:
            for name, value in values.items():
                self._tensorboard.add_scalar(name, value, step)

    def evaluation(self, step: int, split: str, result: Evaluation, of_best: bool) -> None:
        """Scores, predictions_<split>.jsonl, sample predictions, histograms and heat maps of a split.

        ``of_best``: with the best weights, after training; their scores are logged as ``best/<split>/...``.
        """
        if not self.active:
            return
        prefix = "best/" if of_best else ""
        self.log(step, {f"{prefix}{split}/{name}": value for name, value in result.scores.items()})
        write_rows(self.output_dir / f"predictions_{split}.jsonl", result.rows)
        for name, values in result.histograms.items():
            self._histogram(step, f"{split}/{name}", values)
        if self._due(f"pictures of {split}", of_best):
            self._pictures(step, split, result)
        if self._wandb:
            import wandb

            columns = list(result.rows[0])
            table = wandb.Table(columns=columns, data=[[row[c] for c in columns] for row in result.rows[:_TABLE_ROWS]])
            self._wandb.log({f"{split}/predictions": table}, step=step)
        if self._tensorboard:
            text = "\n\n".join(" | ".join(map(str, row.values())) for row in result.rows[:10])
            self._tensorboard.add_text(f"{split}/predictions", text, step)

    def _pictures(self, step: int, split: str, result: Evaluation) -> None:
        if not (result.heat_maps or result.grids or result.matrices):
            return
        from uni_sign.drawing import heat_map, matrix, picture_grid  # matplotlib, which only this rank need import

        for name, rows in result.heat_maps.items():
            self.figure(step, f"{split}_{name}", heat_map(rows, f"{name} over time, {split}", name))
        for name, grid in result.grids.items():
            self.figure(step, f"{split}_{name}", picture_grid(grid, f"{name}, {split}, step {step}"))
        for name, (labels, values) in result.matrices.items():
            self.figure(step, f"{split}_{name}", matrix(labels, values, f"{name} of clips, {split}, step {step}"))

    def _due(self, picture: str, last: bool) -> bool:
        """Whether to draw a kind of picture: not where that was done a moment ago, but the ``last`` one in any case."""
        now = time.monotonic()
        due = last or now - self._drawn_at.get(picture, -math.inf) > _DRAWING_PAUSE
        if due:
            self._drawn_at[picture] = now
        return due

    def _histogram(self, step: int, name: str, values: np.ndarray) -> None:
        if self._wandb:
            import wandb

            self._wandb.log({f"{name}_histogram": wandb.Histogram(values)}, step=step)
        if self._tensorboard:
            self._tensorboard.add_histogram(name, values, step)

    def figure(self, step: int, name: str, figure: "Figure") -> None:
        """A picture to pictures/<name>.png and every tracker."""
        if not self.active:
            return
        path = self.output_dir / "pictures" / f"{name}.png"
        figure.savefig(path, dpi=130)
        if self._wandb:
            import wandb

            self._wandb.log({f"pictures/{name}": wandb.Image(str(path))}, step=step)
        if self._tensorboard:
            self._tensorboard.add_figure(name, figure, step)

    def loss_curve(self, step: int, monitor: str, last: bool = False) -> None:
        """Draw pictures/loss.png from log.jsonl, unless that was done a moment ago; the ``last`` one in any case."""
        if self.active and self._due("loss curve", last):
            from uni_sign.drawing import loss_curve

            records = [json.loads(line) for line in _lines(self.output_dir / "log.jsonl")]
            self.figure(step, "loss", loss_curve(records, monitor))

    def close(self) -> None:
        """End the bar and flush every tracker."""
        if not self.active:
            return
        if self._bar is not None:
            self._bar.close()
        if self._wandb:
            self._wandb.finish()
        if self._tensorboard:
            self._tensorboard.close()
        self._log.close()


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """JSON lines, whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    partial.replace(path)


def _lines(path: Path) -> list[str]:
    """Complete lines of a JSON-lines file; a killed writer may have left half of one."""
    if not path.is_file():
        return []
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]


def _has_wandb_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _trackers(config: TrainConfig) -> set[str]:
    """The trackers of ``--report_to`` and ``--use_wandb``; auto means W&B where the user has set it up."""
    asked = {"wandb"} if config.use_wandb else set[str]()
    if config.report_to == "auto":
        wanted = os.environ.get("WANDB_MODE", "online" if _has_wandb_key() else "disabled")
        return asked if wanted == "disabled" else {"wandb"}
    return asked | set(config.report_to.split(",")) - {"none"}


def _tensorboard_writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError("--report_to tensorboard needs the package: pip install tensorboard.") from error
    return SummaryWriter(str(folder))
