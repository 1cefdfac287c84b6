"""Flags and YAML or JSON files to typed dataclasses; every value is checked before any process group starts."""

import argparse
import dataclasses
import datetime
import difflib
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

from uni_sign.errors import InputError
from uni_sign.yaml_files import read_mapping

Check = Callable[[Any], str | None]

_CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def flag(default: Any, help: str, *, check: Check | None = None, aliases: Sequence[str] = ()) -> Any:
    """A dataclass field that is a command-line flag: its default, its help and the check of its value."""
    return dataclasses.field(default=default, metadata={"help": help, "check": check, "aliases": aliases})


def at_least(low: float) -> Check:
    """Accepts numbers >= low."""
    return lambda value: None if value >= low else f"must be at least {low:g}"


def above(low: float) -> Check:
    """Accepts numbers > low."""
    return lambda value: None if value > low else f"must be greater than {low:g}"


def between(low: float, high: float) -> Check:
    """Accepts numbers from low to high."""
    return lambda value: None if low <= value <= high else f"must lie between {low:g} and {high:g}"


def _decay(value: float) -> str | None:
    return None if 0 <= value < 1 else "must be a number from 0 to below 1"


def _betas(value: tuple[float, float]) -> str | None:
    return None if all(0 <= beta < 1 for beta in value) else "must be two numbers from 0 to below 1"


def _trackers(value: str) -> str | None:
    names = set(value.split(","))
    if names <= {"auto", "wandb", "tensorboard", "none"} and (len(names) == 1 or not names & {"auto", "none"}):
        return None
    return "must be auto, none, wandb, tensorboard or wandb,tensorboard"


# W&B itself refuses these only once training has begun.
def _project(value: str) -> str | None:
    return (
        None
        if len(value) <= 128 and not set(value) & set("/\\#?%:")
        else "must be at most 128 characters, without /\\#?%:"
    )


def _tags(value: str) -> str | None:
    return None if all(len(tag) <= 64 for tag in tags_of(value)) else "must be tags of at most 64 characters each"


def tags_of(words: str) -> list[str]:
    """What stands between commas."""
    return [word.strip() for word in words.split(",") if word.strip()]


_OF_WANDB = ("wandb_project", "wandb_entity", "wandb_run_name", "wandb_tags")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The flags of the loop, the same for every stage."""

    output_dir: Path = flag(Path("out/run"), "folder of the run: checkpoints, logs, predictions, pictures")
    resume: str = flag(
        "", "continue a stopped run: auto (newest complete checkpoint in output_dir) or a checkpoint folder"
    )
    seed: int = flag(42, "seed of weights, order, frame choice and dropout", check=between(0, 2**31 - 1))
    epochs: int = flag(20, "passes over the training split", check=at_least(1), aliases=("stage1_epochs", "num_epochs"))
    max_steps: int = flag(0, "stop after this many optimizer steps; 0: no limit", check=at_least(0), aliases=("steps",))
    batch_size: int = flag(16, "clips per process and micro-batch; with --frames_per_batch the most", check=at_least(1))
    frames_per_batch: int = flag(
        0,
        "fill each process's micro-batch up to so many frames with clips of similar length, at most --batch_size; "
        "0: clips alone count",
        check=at_least(0),
    )
    gradient_accumulation_steps: int = flag(1, "micro-batches per optimizer step", check=at_least(1))
    global_batch_size: int = flag(
        0,
        "clips per optimizer step of all processes together, which --gradient_accumulation_steps then follows from; "
        "0: as that flag says",
        check=at_least(0),
    )
    gradient_clipping: float = flag(
        1.0, "largest gradient norm; 0: no clipping", check=at_least(0), aliases=("max_grad_norm",)
    )
    opt: Literal["adamw", "adamw8bit", "adafactor", "sgd"] = flag(
        "adamw",
        "optimizer; adamw8bit: AdamW with its state in 8 bits, on CUDA; adafactor: a state of rows and columns, and a "
        "learning rate relative to each parameter's size, with --zero_stage 0",
    )
    opt_eps: float = flag(1e-9, "epsilon of AdamW", check=above(0))
    opt_betas: tuple[float, float] = flag((0.9, 0.999), "the two betas of AdamW", check=_betas)
    weight_decay: float = flag(1e-4, "weight decay of matrices (biases and norms have none)", check=at_least(0))
    ema_decay: float = flag(
        0.0,
        "decay of a moving average of the weights, which is scored and kept in their place, such as 0.9999; 0: none",
        check=_decay,
    )
    sched: Literal["cosine", "linear", "constant", "plateau"] = flag(
        "cosine", "course of the learning rate after warm-up; plateau: lower where the monitored score stands still"
    )
    plateau_factor: float = flag(0.5, "what --sched plateau multiplies the learning rate by", check=between(0.01, 0.99))
    plateau_patience: int = flag(10, "evaluations in a row without a better score before that", check=at_least(0))
    lr: float = flag(1e-3, "highest learning rate", check=above(0), aliases=("learning_rate",))
    min_lr: float = flag(1e-8, "learning rate at the end of the schedule", check=at_least(0), aliases=("lr_min",))
    warmup_epochs: float = flag(0.0, "epochs of linear warm-up", check=at_least(0))
    dtype: Literal["bf16", "fp16", "fp32"] = flag("bf16", "precision of the computation")
    zero_stage: Literal[0, 1, 2, 3] = flag(2, "DeepSpeed ZeRO stage; 0: plain data parallel without DeepSpeed")
    offload: bool = flag(False, "keep the optimizer on the CPU (ZeRO-2 and 3)")
    compile: bool = flag(False, "torch.compile the transformer's blocks for training (not with ZeRO-3)")
    gradient_checkpointing: bool = flag(
        False, "recompute activations in the backward pass instead of keeping them: less memory, more time"
    )
    num_workers: int = flag(2, "data-loading processes per rank", check=between(0, 128))
    pin_mem: bool = flag(True, "page-locked host memory for copies to the GPU")
    eval: bool = flag(False, "score the held-out splits and stop, without training")
    eval_epochs: int = flag(1, "score the dev split every so many epochs", check=at_least(1))
    early_stopping_patience: int = flag(
        0,
        "end training after so many evaluations in a row without a better score; 0: train to the end",
        check=at_least(0),
    )
    early_stopping_min_delta: float = flag(
        0.0,
        "by how much a score must be better than the best to count, with --early_stopping_patience",
        check=at_least(0),
    )
    save_steps: int = flag(
        0,
        "checkpoint every so many optimizer steps, beside the one after each epoch; 0: epochs only",
        check=at_least(0),
        aliases=("quick_break", "save_step"),
    )
    save_total_limit: int = flag(2, "how many checkpoints to keep", check=at_least(1))
    grace_seconds: float = flag(
        120.0,
        "time to save and end after SIGTERM, SIGUSR1 or the launcher's end; then the process is ended",
        check=above(0),
    )
    ddp_timeout: float = flag(
        600.0, "end a process where nothing moved for so many seconds: a peer is dead or cut off", check=above(0)
    )
    deterministic: bool = flag(False, "only deterministic algorithms on CUDA, where others are faster")
    log_steps: int = flag(10, "log every so many optimizer steps", check=at_least(1), aliases=("log_step",))
    report_to: str = flag(
        "auto",
        "trackers: wandb, tensorboard, both by comma, none, or auto (W&B where a key or WANDB_MODE is set)",
        check=_trackers,
    )
    use_wandb: bool = flag(False, "log to W&B beside what --report_to says")
    wandb_project: str = flag("", "project in W&B; default: WANDB_PROJECT, or uni_sign", check=_project)
    wandb_entity: str = flag("", "user or team in W&B; default: WANDB_ENTITY, or your own")
    wandb_run_name: str = flag("", "name of the run in W&B; default: one of W&B's")
    wandb_tags: str = flag("", "tags of the run in W&B, separated by commas", check=_tags)
    bad_samples: Literal["report", "stop"] = flag(
        "report", "an unusable clip is reported and left out, or stops the run"
    )
    local_rank: int = flag(-1, "set by launchers, ignored: ranks come from the environment")

    def conflicts(self) -> str | None:
        """What does not go together, in one sentence."""
        if self.offload and self.zero_stage < 2:
            return f"--offload needs --zero_stage 2 or 3, not {self.zero_stage}"
        if self.compile and self.zero_stage == 3:
            return "--compile does not go with --zero_stage 3, which gathers weights within forward: use 2 or less"
        if self.compile and self.eval:
            return "--compile is for training: leave it out with --eval"
        if self.opt == "adafactor" and self.zero_stage:
            return (
                f"--opt adafactor needs --zero_stage 0, not {self.zero_stage}: ZeRO lays all parameters in one row, "
                "which has no rows and columns to keep"
            )
        if self.opt == "adamw8bit" and self.offload:
            return "--opt adamw8bit keeps its state on the GPU: leave out --offload, or use --opt adamw"
        if self.global_batch_size and self.gradient_accumulation_steps > 1:
            return "--global_batch_size and --gradient_accumulation_steps say the same: give one of them"
        if self.global_batch_size and self.frames_per_batch:
            return "--global_batch_size counts clips, --frames_per_batch frames: give one of them"
        if self.eval and self.resume:
            return "--eval scores the weights of --finetune: leave out --resume"
        if self.early_stopping_min_delta and not self.early_stopping_patience:
            return "--early_stopping_min_delta says what counts for --early_stopping_patience: give that, too"
        if self.use_wandb and self.report_to == "none":
            return "--use_wandb and --report_to none contradict each other: leave one out"
        named = [name for name in _OF_WANDB if getattr(self, name)]
        if named and not (self.use_wandb or self.report_to == "auto" or "wandb" in self.report_to):
            return f"--{named[0]} needs W&B, which --report_to {self.report_to} leaves out: add --use_wandb"
        if self.min_lr > self.lr:
            return f"--min_lr {self.min_lr:g} is above --lr {self.lr:g}: lower it"
        if self.warmup_epochs > self.epochs:
            return f"--warmup_epochs {self.warmup_epochs:g} is more than --epochs {self.epochs}: lower it"
        return None


_FITTED = {"warmup_epochs": "epochs", "min_lr": "lr"}


class Parser(argparse.ArgumentParser):
    """argparse that raises InputError, names the nearest flag for an unknown one, and takes no abbreviations."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def parse_words(self, words: Sequence[str]) -> argparse.Namespace:
        """The flags in ``words``, dashes and underscores being the same."""
        known, unknown = self.parse_known_args([_underscored(token) for token in words])
        if unknown:
            raise InputError(_unknown_flag(unknown[0], self))
        return known

    def error(self, message: str) -> NoReturn:
        raise InputError(message[0].upper() + message[1:] + "; see --help.")


def parse_flags(
    argv: Sequence[str],
    *kinds: Any,
    program: str = "uni-sign train",
    defaults: Mapping[str, Any] | None = None,
    source: str = "the defaults",
    section: str = "",
) -> list[Any]:
    """One checked instance per dataclass in ``kinds``; flags win over ``--config FILE``, that over ``defaults``.

    ``source`` says in errors where the defaults come from; ``section``: see `section_of`.
    Dashes and underscores in flag names are the same. Raises InputError for anything unknown or impossible.
    """
    fields = {field.name: (kind, field) for kind in kinds for field in dataclasses.fields(kind)}
    known = build_parser(*kinds, program=program).parse_words(argv)
    given = {name: value for name, value in vars(known).items() if name != "config"}
    values = converted(defaults or {}, kinds, source)
    if known.config:
        path = find_config(known.config, section)
        values |= converted(section_of(read_mapping(path), section, str(path)), kinds, str(path))
    values |= given
    for name, limit in _FITTED.items():
        # What nobody typed does not stand in the way of what was.
        if limit in given and name not in given and name in values:
            values[name] = min(values[name], values[limit])
    made = []
    for kind in kinds:
        instance = kind(**{name: value for name, value in values.items() if fields[name][0] is kind})
        check_values(instance)
        made.append(instance)
    return made


def find_config(named: Path, stage: str) -> Path:
    """The file of ``--config``; a mere name, such as small, is that of configs/<stage>_small.yaml or .json.

    Looked for in the working directory, then in the project. Raises InputError where none of these is there.
    """
    if not stage or named.suffix or len(named.parts) > 1 or named.is_file():
        return named
    names = [f"{stage}_{named}{suffix}" for suffix in (".yaml", ".json")]
    sought = [folder / name for folder in (Path("configs"), _CONFIGS) for name in names]
    found = next((path for path in sought if path.is_file()), None)
    if found is None:
        listed = ", ".join(map(str, [named, *sought]))
        raise InputError(f"--config {named} names no file of flags: there is none of {listed}.")
    return found


def section_of(content: Mapping[str, Any], section: str, source: str) -> Mapping[str, Any]:
    """The flags of one stage in a file of several, those under its ``model`` and ``training``; of another file all."""
    part = content.get(section) if section else None
    if not isinstance(part, Mapping):
        return content
    unknown = sorted(set(part) - {"model", "training", "inference"})
    wrong = [name for name, flags in part.items() if not isinstance(flags, Mapping)]
    if unknown or wrong:
        raise InputError(
            f"{source}: {section} holds {(unknown + wrong)[0]}, where model, training and inference are due."
        )
    return {**part.get("model", {}), **part.get("training", {})}


def build_parser(*kinds: Any, program: str, add_help: bool = True, defaults: Mapping[str, Any] | None = None) -> Parser:
    """The argparse parser of these dataclasses: a flag a field, grouped by dataclass, nothing abbreviated.

    ``defaults``: those that --help tells instead of the fields' own.
    """
    parser = Parser(prog=program, argument_default=argparse.SUPPRESS, add_help=add_help)
    parser.add_argument(
        *("--config", "--config_file"),
        type=Path,
        default=None,
        help="YAML or JSON file of flags, or NAME for configs/<stage>_NAME.yaml or .json; the command line wins",
    )
    for kind in kinds:
        group = parser.add_argument_group(kind.__doc__.splitlines()[0])
        hints = typing.get_type_hints(kind)
        for field in dataclasses.fields(kind):
            _add_flag(group, field, hints[field.name], (defaults or {}).get(field.name, field.default))
    return parser


def _add_flag(group: Any, field: Any, hint: Any, default: Any) -> None:
    names = [f"--{name}" for name in (field.name, *field.metadata["aliases"])]
    shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
    help_text = field.metadata["help"].replace("%", "%%")
    if shown not in ("", None):
        help_text += f" (default: {shown})"
    options: dict[str, Any] = {"dest": field.name, "help": help_text}
    kind = _plain_type(hint)
    if kind is bool:
        options["action"] = argparse.BooleanOptionalAction
    elif typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        options.update(type=type(choices[0]), choices=choices)
    elif typing.get_origin(kind) is tuple:
        options.update(type=float, nargs=2)
    else:
        options["type"] = kind
    group.add_argument(*names, **options)


def _plain_type(hint: Any) -> Any:
    """``X`` of ``X | None``, else the hint itself."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next(part for part in typing.get_args(hint) if part is not type(None))
    return hint


def _underscored(token: str) -> str:
    if not token.startswith("--"):
        return token
    name, equals, value = token.partition("=")
    plain = name[2:].replace("-", "_")
    # argparse spells the negation of a boolean flag with a dash.
    spelled = "no-" + plain[3:] if plain.startswith("no_") else plain
    return f"--{spelled}{equals}{value}"


def _unknown_flag(token: str, parser: argparse.ArgumentParser) -> str:
    if not token.startswith("-"):
        return f"Unexpected argument {token!r}: flags start with two dashes; see --help."
    known = [option for action in parser._actions for option in action.option_strings if option.startswith("--")]
    name = token.partition("=")[0]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"Unknown flag {name}" + (f": did you mean {near[0]}?" if near else "; see --help.")


def converted(content: Mapping[str, Any], kinds: Sequence[Any], source: str) -> dict[str, Any]:
    """Values by flag name, converted as the command line converts them; ``source`` is named in errors."""
    parser = build_parser(*kinds, program=source, add_help=False)  # a value --help would end the program
    checked = {field.name: field for kind in kinds for field in dataclasses.fields(kind)}
    by_option = {option: action for action in parser._actions for option in action.option_strings}
    values: dict[str, Any] = {}
    for key, value in content.items():
        option = _underscored(f"--{key}")
        if option not in by_option or by_option[option].dest == "config" or option.startswith("--no-"):
            raise InputError(f"{source}: {_unknown_flag(option, parser)}")
        action = by_option[option]
        if action.dest in values:
            raise InputError(f"{source}: {key} is another name of a flag that is there already: leave one out.")
        if value is None:
            raise InputError(f"{source}: {key} has no value: give one or leave the line out.")
        given = value if isinstance(value, (list, tuple)) and action.nargs else [value]
        if not all(isinstance(word, (str, int, float, datetime.date)) for word in given):
            raise InputError(f"{source}: {key} must be {'a list of values' if action.nargs else 'one value'}.")
        if isinstance(action, argparse.BooleanOptionalAction):
            if not isinstance(value, bool):
                raise InputError(f"{source}: {key} must be true or false, not {value!r}.")
            values[action.dest] = value
            continue
        try:
            values[action.dest] = getattr(parser.parse_args([option, *map(str, given)]), action.dest)
            _check_value(checked[action.dest], values[action.dest])
        except InputError as error:
            raise InputError(f"{source}: {error}") from error
    return values


def check_values(config: Any) -> None:
    """Raise InputError for the first value of ``config`` that is impossible alone or together with others."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        _check_value(field, value)
        if isinstance(value, list):  # argparse gives two numbers as a list
            object.__setattr__(config, field.name, tuple(value))
    conflict = config.conflicts() if hasattr(config, "conflicts") else None
    if conflict:
        raise InputError(conflict + ".")


def _check_value(field: Any, value: Any) -> None:
    check = field.metadata.get("check")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"--{field.name} {value} is not a finite number.")
    problem = check(value) if check and value is not None else None
    if problem:
        raise InputError(f"--{field.name} {value} {problem}.")


def as_plain(*configs: Any) -> dict[str, Any]:
    """Flat names and plain values of the dataclasses, as they go into config.yaml and checkpoints."""
    merged: dict[str, Any] = {}
    for config in configs:
        for name, value in dataclasses.asdict(config).items():
            merged[name] = str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
    return merged
