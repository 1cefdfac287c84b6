"""Flags and files of flags: what is accepted, what it becomes, and the sentence for what is not."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from uni_sign import config
from uni_sign.commands.infer_rectified_flow import FlowInferConfig
from uni_sign.config import TrainConfig, as_plain, build_parser, converted, parse_flags
from uni_sign.errors import InputError
from uni_sign.stages.base import load_stage, stage_names
from uni_sign.stages.fine_tuning import FineTuningConfig
from uni_sign.yaml_files import read_mapping

KINDS = (TrainConfig, FineTuningConfig)


def parsed(*argv: str) -> tuple[TrainConfig, FineTuningConfig]:
    train, stage = parse_flags(argv, *KINDS)
    return train, stage


def refusal(*argv: str) -> str:
    with pytest.raises(InputError) as caught:
        parse_flags(argv, *KINDS)
    message = str(caught.value)
    assert "\n" not in message
    assert message[0].isupper() or message.startswith(("-", "/"))
    return message


def config_file(folder: Path, content: str, name: str = "flags.yaml") -> tuple[str, str]:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return "--config", str(path)


# --- the command line --------------------------------------------------------------------------------------


def test_defaults_are_the_published_ones() -> None:
    train, stage = parsed()
    assert (train.batch_size, train.gradient_accumulation_steps, train.epochs) == (16, 1, 20)
    assert (train.opt, train.opt_eps, train.weight_decay) == ("adamw", 1e-9, 1e-4)
    assert (train.lr, train.sched, train.gradient_clipping) == (1e-3, "cosine", 1.0)
    assert (train.dtype, train.zero_stage, train.offload) == ("bf16", 2, False)
    assert (stage.hidden_dim, stage.label_smoothing, stage.task) == (256, 0.2, "SLT")
    assert (stage.num_beams, stage.max_new_tokens) == (4, 100)
    assert not stage.use_descriptions


@pytest.mark.parametrize(
    "argv",
    [
        ["--batch-size", "3", "--opt-betas", "0.8", "0.9", "--text-dropout-p", "0.5", "--use-descriptions"],
        ["--batch_size", "3", "--opt_betas", "0.8", "0.9", "--text_dropout_p", "0.5", "--use_descriptions"],
        ["--batch-size=3", "--opt_betas", "0.8", "0.9", "--text-dropout_p=0.5", "--use_descriptions"],
    ],
)
def test_dashes_and_underscores_are_the_same(argv: Sequence[str]) -> None:
    train, stage = parsed(*argv)
    assert (train.batch_size, train.opt_betas) == (3, (0.8, 0.9))
    assert (stage.text_dropout_p, stage.use_descriptions) == (0.5, True)


def test_dashes_in_values_stay() -> None:
    assert parsed("--output-dir", "my-runs/a-b")[0].output_dir == Path("my-runs/a-b")
    assert parsed("--output-dir=my-runs/a-b")[0].output_dir == Path("my-runs/a-b")


@pytest.mark.parametrize(
    ("word", "expected"), [("--no-pin-mem", False), ("--no_pin_mem", False), ("--pin-mem", True), ("--pin_mem", True)]
)
def test_negated_flags(word: str, expected: bool) -> None:
    assert parsed(word)[0].pin_mem is expected


def test_every_flag_that_users_already_type() -> None:
    train, stage = parsed(
        *shlex.split(
            "--dataset Demo --task SLT --epochs 3 --batch-size 2 --gradient-accumulation-steps 8 "
            "--gradient-clipping 1.0 --opt adamw --opt-eps 1e-09 --opt-betas 0.9 0.95 --weight-decay 1e-4 "
            "--sched cosine --lr 3e-4 --min-lr 1e-08 --warmup-epochs 0 --output_dir out/x --seed 42 --eval "
            "--finetune a.pth --num_workers 8 --pin-mem --offload --dtype bf16 --zero_stage 2 "
            "--max_length 256 --label_smoothing 0.2 --quick_break 2048 --use_descriptions "
            "--text_dropout_p 0.1 --text_encoder_freeze --fusion_checkpoint f.pth --hidden_dim 256"
        ),
        "--local_rank=3",
    )
    assert train.save_steps == 2048
    assert (train.lr, train.min_lr, train.eval, train.offload) == (3e-4, 1e-8, True, True)
    assert train.local_rank == 3
    assert (stage.finetune, stage.fusion_checkpoint, stage.text_encoder_freeze) == ("a.pth", "f.pth", True)


def test_flags_as_users_of_other_trainers_type_them(tmp_path: Path) -> None:
    (tmp_path / "flags.json").write_text(json.dumps({"learning_rate": 1e-4, "lr_min": 1e-6, "seed": 5}))
    words = "--num-epochs 3 --steps 70 --log-step 4 --save-step 50 --max-grad-norm 2 --learning-rate 2e-4 --use-wandb"
    for name in ("--config-file", "--config_file", "--config"):
        train, _ = parsed(*shlex.split(words), name, str(tmp_path / "flags.json"))
        assert (train.epochs, train.max_steps, train.log_steps, train.save_steps) == (3, 70, 4, 50)
        assert (train.gradient_clipping, train.lr, train.min_lr, train.seed) == (2, 2e-4, 1e-6, 5)
        assert train.use_wandb


def test_local_rank_of_launchers() -> None:
    assert parsed("--local_rank=3")[0].local_rank == 3
    assert parsed("--local-rank", "0")[0].local_rank == 0


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("--bach-size", "--batch_size"),
        ("--batchsize=4", "--batch_size"),
        ("--use_description", "--use_descriptions"),
        ("--learning_smoothing", "--label_smoothing"),
    ],
)
def test_unknown_flags_suggest_the_nearest(word: str, near: str) -> None:
    message = refusal(word)
    assert message.endswith(f"did you mean {near}?")


def test_unknown_flags_without_a_near_one_and_stray_words() -> None:
    assert "see --help" in refusal("--zzzzzz", "4")
    assert "'stray'" in refusal("stray")


def test_nothing_is_abbreviated() -> None:
    assert "--batch_size" in refusal("--batch", "4")


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ("--lr -1", "--lr -1"),
        ("--lr 0", "--lr 0"),
        ("--lr nan", "--lr"),
        ("--lr inf", "--lr"),
        ("--weight_decay nan", "--weight_decay"),
        ("--opt_betas 0.9 1.0", "--opt_betas"),
        ("--opt_betas nan 0.9", "--opt_betas"),
        ("--opt_betas 0.9", "--opt_betas"),
        ("--ema_decay 1", "--ema_decay 1.0 must be a number from 0 to below 1"),
        ("--ema_decay -0.1", "--ema_decay -0.1"),
        ("--early_stopping_min_delta 0.1", "--early_stopping_min_delta says what counts for --early_stopping_patience"),
        ("--early_stopping_patience -1", "--early_stopping_patience -1"),
        ("--use_wandb --report_to none", "--use_wandb and --report_to none contradict"),
        ("--wandb_tags a,b --report_to tensorboard", "--wandb_tags needs W&B, which --report_to tensorboard leaves"),
        ("--wandb_project a/b", "--wandb_project a/b must be"),
        (f"--wandb_tags a,{'b' * 65}", "at most 64 characters"),
        ("--epochs 0", "--epochs 0"),
        ("--epochs 1.5", "--epochs"),
        ("--batch_size 0", "--batch_size 0"),
        ("--seed -1", "--seed -1"),
        ("--dtype fp8", "--dtype"),
        ("--zero_stage 4", "--zero_stage"),
        ("--report_to mail", "--report_to"),
        ("--report_to none,wandb", "--report_to"),
        ("--offload --zero_stage 1", "--offload needs --zero_stage 2 or 3"),
        ("--opt adafactor", "--opt adafactor needs --zero_stage 0, not 2"),
        ("--opt adamw8bit --offload", "--opt adamw8bit keeps its state on the GPU"),
        ("--min_lr 0.1", "--min_lr 0.1 is above --lr 0.001"),
        ("--warmup_epochs 30", "--warmup_epochs 30 is more than --epochs 20"),
        ("--use_descriptions --text_dropout_p 2", "--text_dropout_p 2"),
        ("--label_smoothing 1", "--label_smoothing 1"),
        ("--hidden_dim 6", "--hidden_dim 6 must be a multiple of 4"),
        ("--hidden_dim 0", "--hidden_dim 0"),
        ("--task XYZ", "--task"),
        ("--text_encoder_freeze", "--text_encoder_freeze needs --use_descriptions"),
        ("--fusion_only", "--fusion_only needs --use_descriptions"),
        ("--fusion_checkpoint a.pth", "--fusion_checkpoint needs --use_descriptions"),
        ("--text_dropout_p 0.1", "--text_dropout_p needs --use_descriptions"),
        ("--lr", "--lr"),
    ],
)
def test_impossible_values_are_refused_by_name(argv: str, says: str) -> None:
    assert says in refusal(*argv.split())


def test_both_trackers_by_comma() -> None:
    assert parsed("--report_to", "wandb,tensorboard")[0].report_to == "wandb,tensorboard"


# --- files -------------------------------------------------------------------------------------------------


def test_yaml_file(tmp_path: Path) -> None:
    content = "lr: 3e-4\nbatch-size: 4\nopt_betas: [0.8, 0.9]\nuse_descriptions: true\npin_mem: false\nseed: 7\n"
    train, stage = parsed(*config_file(tmp_path, content))
    assert (train.lr, train.batch_size, train.opt_betas) == (3e-4, 4, (0.8, 0.9))
    assert (train.pin_mem, train.seed, stage.use_descriptions) == (False, 7, True)


def test_json_file(tmp_path: Path) -> None:
    content = json.dumps({"lr": 3e-4, "quick_break": 5, "task": "CSLR", "opt_betas": [0.1, 0.2]}, indent=2)
    train, stage = parsed(*config_file(tmp_path, content, "flags.json"))
    assert (train.lr, train.save_steps, train.opt_betas, stage.task) == (3e-4, 5, (0.1, 0.2), "CSLR")


def test_command_line_beats_file_and_file_beats_defaults(tmp_path: Path) -> None:
    file = config_file(tmp_path, "lr: 0.01\nepochs: 3\neval: true\n")
    for argv in (["--lr", "0.5", *file], [*file, "--lr", "0.5"]):
        train, _ = parse_flags(argv, *KINDS, defaults={"epochs": 9, "seed": 8, "lr": 0.2})
        assert (train.lr, train.epochs, train.seed, train.eval) == (0.5, 3, 8, True)
    assert not parse_flags(["--no-eval", *file], *KINDS)[0].eval


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("bach_size: 4", "did you mean --batch_size?"),
        ("no_pin_mem: true", "no-pin_mem"),
        ("config: other.yaml", "config"),
        ("config_file: other.yaml", "Unknown flag --config_file"),
        ("lr: 0.1\nlearning_rate: 0.1", "learning_rate is another name of a flag that is there already"),
        ("help: 1", "help"),
        ("1: 2", "--1"),
        ("lr: fast", "--lr"),
        ("lr: -1", "--lr -1"),
        ("lr: [1, 2]", "lr must be one value"),
        ("lr:", "lr"),
        ("finetune:", "finetune"),
        ("eval: 1", "eval must be true or false, not 1"),
        ("eval: 'yes'", "eval must be true or false"),
        ("zero_stage: 7", "--zero_stage"),
        ("- lr", "holds list"),
        ("", "holds NoneType"),
        ("lr", "holds str"),
        ("lr: [1", "not valid YAML"),
        ("lr: !!python/object/apply:os.getcwd []", "not valid YAML"),
        ("seed: 2020-13-45", "not valid YAML"),
        ("seed: !!int x", "not valid YAML"),
        ("eval: !!bool x", "not valid YAML"),
        ("seed: !!timestamp x", "not valid YAML"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, content: str, says: str) -> None:
    assert says in refusal(*config_file(tmp_path, content))


def test_refusals_of_a_key_name_the_file(tmp_path: Path) -> None:
    for content in ("bach_size: 4", "lr: fast", "eval: 1", "- lr", "lr: [1"):
        assert "flags.yaml" in refusal(*config_file(tmp_path, content))


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    assert "nowhere.yaml cannot be read" in refusal("--config", str(tmp_path / "nowhere.yaml"))
    assert "cannot be read" in refusal("--config", str(tmp_path))
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    assert "not valid YAML" in refusal("--config", str(binary))


@given(st.text("ab1 :-[]{}'\"\n!&*#,0.x", max_size=30))
def test_any_file_reads_or_is_refused(tmp_path_factory: pytest.TempPathFactory, content: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(content)
    with contextlib.suppress(InputError):
        assert isinstance(read_mapping(path), dict)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("output_dir: --help", "output_dir"),
        ("opt_betas: [--help, 1]", "opt_betas"),
        ("help: 1", "Unknown flag --help"),
        ("finetune: [a.pth, --seed, 5]", "finetune must be one value"),
        ("opt_betas: [--seed, 5]", "opt_betas"),
        ("lr: [[1]]", "lr must be one value"),
        ("offload: {a: b}", "offload must be"),
        ("seed: -1", "--seed -1 must lie between"),
        ("lr: .inf", "not a finite number"),
        ('"a\\nb": 1', r"a\nb"),
    ],
)
def test_hostile_values_name_the_file(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "flags.yaml"
    path.write_text(content)
    message = refusal("--config", str(path))
    assert "flags.yaml" in message
    assert says in message


def test_a_name_means_a_file_of_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, project = tmp_path / "here", tmp_path / "project"
    for folder, name, content in ((here / "configs", "small.json", '{"seed": 1}'), (project, "small.yaml", "seed: 2")):
        folder.mkdir(parents=True)
        (folder / f"fine_tuning_{name}").write_text(content)
    monkeypatch.setattr(config, "_CONFIGS", project)

    def seed() -> int:
        train, _ = parse_flags(["--config", "small"], *KINDS, section="fine_tuning")
        return int(train.seed)

    monkeypatch.chdir(tmp_path)
    assert seed() == 2
    monkeypatch.chdir(here)
    assert seed() == 1
    (here / "small").write_text("seed: 3")
    assert seed() == 3
    with pytest.raises(InputError, match=r"--config large .* large, configs/fine_tuning_large\.yaml, ") as caught:
        parse_flags(["--config", "large"], *KINDS, section="fine_tuning")
    assert str(project / "fine_tuning_large.json") in str(caught.value)
    with pytest.raises(InputError, match=r"large\.yaml cannot be read"):
        parse_flags(["--config", "large.yaml"], *KINDS, section="fine_tuning")


# --- the dataclasses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [TrainConfig, *(load_stage(name).Config for name in stage_names())])
def test_every_field_is_documented_and_has_a_default(kind: Any) -> None:
    assert kind.__doc__
    for field in dataclasses.fields(kind):
        assert field.metadata.get("help"), field.name
        assert field.default is not dataclasses.MISSING, field.name
    kind()


@pytest.mark.parametrize("name", stage_names())
def test_no_stage_flag_hides_one_of_the_loop(name: str) -> None:
    def words(kind: Any) -> set[str]:
        return {word for field in dataclasses.fields(kind) for word in (field.name, *field.metadata["aliases"])}

    assert not words(TrainConfig) & words(load_stage(name).Config)
    help_text = build_parser(TrainConfig, load_stage(name).Config, program="x").format_help()
    assert all(f"--{word}" in help_text for word in words(load_stage(name).Config))


ROOT = Path(__file__).parents[1]
KEYPOINT_STAGES = ("hierarchical_keypoint", "hierarchical_image", "skeleton", "temporal", "alignment")


def told_flags(path: Path, heading: str) -> list[tuple[tuple[str, ...], list[str]]]:
    """Names of the flags of each row under a heading, and its cells."""
    part = path.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("| `--")]
    return [(tuple(re.findall(r"`--([a-z0-9_]+)`", row[0])), [cell.strip(" `") for cell in row]) for row in rows]


def told_default(field: Any) -> str:
    shown = " ".join(map(str, field.default)) if isinstance(field.default, tuple) else str(field.default)
    return {"True": "yes", "False": "no", "None": ""}.get(shown, shown)


@pytest.mark.parametrize("kind", KINDS)
def test_the_readme_lists_every_flag_and_its_default(kind: Any) -> None:
    told = {names: cells[1] for names, cells in told_flags(ROOT / "README.md", "Flags")}
    for field in dataclasses.fields(kind):
        assert told.get((field.name, *field.metadata["aliases"])) == told_default(field), field.name


@pytest.mark.parametrize(
    ("page", "stages"),
    [("keypoint_pipeline", KEYPOINT_STAGES), ("rectified_flow", ("motion_autoencoder", "rectified_flow"))],
)
def test_flags_of_stages_are_listed_with_defaults_and_help(page: str, stages: tuple[str, ...]) -> None:
    told = {}
    for names, (_, default, where, help_text) in told_flags(ROOT / f"docs/{page}.md", "Flags of these stages"):
        told |= {(stage, *names): (default, help_text.replace("`", "")) for stage in re.findall(r"\w+", where)}
    expected = {
        (stage, field.name, *field.metadata["aliases"]): (told_default(field), field.metadata["help"])
        for stage in stages
        for field in dataclasses.fields(load_stage(stage).Config)
    }
    assert told == expected


def test_flags_of_generating_motion_are_listed_with_defaults_and_help() -> None:
    rows = told_flags(ROOT / "docs/rectified_flow.md", "Flags of `uni-sign infer rectified_flow`")
    told = {names: (default, help_text) for names, (_, default, help_text) in rows}
    expected = {
        (field.name, *field.metadata["aliases"]): (told_default(field), field.metadata["help"])
        for field in dataclasses.fields(FlowInferConfig)
    }
    assert told == expected


def test_plain_values_round_trip_through_yaml() -> None:
    given_flags = shlex.split(
        "--output_dir a/b --lr 3e-4 --opt_betas 0.8 0.99 --no-pin-mem --seed 3 --offload --dtype fp32 "
        "--dataset Demo --data_root /x --use_descriptions --text_dropout_p 0.25 --description_fill none"
    )
    for configs in (parsed(), parsed(*given_flags)):
        plain = as_plain(*configs)
        written = yaml.safe_load(yaml.safe_dump(plain))
        assert written == plain == json.loads(json.dumps(plain))
        values = converted(written, KINDS, "config.yaml")
        assert set(values) == set(plain)
        assert tuple(parse_flags([], *KINDS, defaults=written)) == configs


def test_a_typed_flag_brings_down_the_defaults_that_it_limits(tmp_path: Path) -> None:
    stage, config = {"epochs": 100, "warmup_epochs": 5.0, "min_lr": 1e-6}, tmp_path / "a.yaml"
    config.write_text("warmup_epochs: 4\n")
    [made] = parse_flags(["--num-epochs", "3", "--learning-rate", "1e-7"], TrainConfig, defaults=stage)
    assert (made.warmup_epochs, made.min_lr) == (3, 1e-7)
    [made] = parse_flags(["--config", str(config), "--epochs", "2"], TrainConfig, defaults=stage)
    assert made.warmup_epochs == 2
    with pytest.raises(InputError, match="--warmup_epochs 4 is more than --epochs 3"):
        parse_flags(["--epochs", "3", "--warmup_epochs", "4"], TrainConfig, defaults=stage)
