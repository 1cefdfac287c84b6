"""The `uni-sign` command: train, evaluate, infer, pipeline, show, view, demo-data, prepare, extract, doctor, ..."""

import gc
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from uni_sign.config import Parser, TrainConfig, as_plain, build_parser, parse_flags
from uni_sign.engine.process_end import end_process
from uni_sign.errors import Done, InputError, PeerLostError, Preempted, RunError
from uni_sign.stages.base import Stage, load_stage, stage_names

_RAISED = re.compile(r"uni_sign\.errors\.(?:InputError|RunError): ")

# Imports make a million objects that stay; at its usual pace the collector goes through them all, again and again,
# which takes a tenth of the time to start.
gc.set_threshold(100_000, 50, 100)

STATUS_FAILED, STATUS_BAD_INPUT = 1, 2
# Seconds: what all processes of a machine meet, the first of them says, and its launcher ends the others meanwhile.
_OTHERS_WAIT = 3.0
_HELP = """usage: uni-sign COMMAND ...

  train STAGE [flags]             train; stages: {stages}
  evaluate --checkpoint F [flags] score the held-out splits with a finished run's weights and flags
  infer --checkpoint F --poses P  pose file or folder in, JSON lines of text out
  infer STAGE --checkpoint F      a trained model of the keypoint pipeline over its data: pictures, vectors, text
  infer rectified_flow [flags]    speech and a face in, a video out; or text in, signing out
  pipeline [flags]                skeleton, temporal, extraction, alignment and generated text, one after the other
  show OUTPUT_DIR                 a finished run: translations, scores, where its files lie
  view CLIP [flags]               draw a clip's skeleton, raw and as the model sees it: PNG or GIF
  demo-data [--videos|--keypoints]  make the embedded Demo corpus, or the keypoint pipeline's
  prepare [flags]                 poses to shards that training reads by memory mapping
  prepare sequences|text [flags]  clips of 143 points, and a table of texts, to the keypoint pipeline's files
  extract [flags]                 videos to pose files of 133 points, by local ONNX models
  extract --holistic [flags]      videos or folders of frames to clips of 143 points, by MediaPipe
  doctor [STAGE] [flags]          check everything before training
  trim FOLDER [flags]             make an mT5 folder with the pieces that a corpus needs
  export SOURCE TARGET            best_checkpoint.pth to a safetensors folder, and back

Each command explains its flags with --help."""
_STAGE_FLAGS = "\nThe stage's own flags work too (uni-sign train STAGE --help); the checkpoint brings their defaults."


def command(argv: Sequence[str] | None = None) -> NoReturn:
    """What a shell calls: `main`, whose status ends the process."""
    end_process(main(argv))


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status: 0 done, 1 failed, 2 a flag or file is wrong, 75 stopped and saved."""
    # `deepspeed --module uni_sign train ...` puts its own flag before the command.
    words = [word for word in (sys.argv[1:] if argv is None else argv) if not word.startswith("--local_rank=")]
    commands = {
        "train": _train,
        "evaluate": _evaluate,
        "infer": _infer,
        "pipeline": _pipeline,
        "show": _show,
        "view": _view,
        "demo-data": _demo_data,
        "prepare": _prepare,
        "extract": _extract,
        "doctor": _doctor,
        "trim": _trim,
        "export": _export,
    }
    try:
        if not words or words[0] in ("-h", "--help"):
            print(_HELP.format(stages=", ".join(stage_names())))
            return 0
        if words[0] not in commands:
            raise InputError(f"Unknown command {words[0]}: use one of {', '.join(commands)}.")
        return commands[words[0]](words[1:])
    except Done as done:
        # Once a machine, as complaints are.
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(done)
        return 0
    except InputError as error:
        _complain(str(error))
        return STATUS_BAD_INPUT


def _complain(sentence: str, kind: str = "error", everyone: bool = False) -> None:
    """Say it once a machine (another one may lack a file of its own), or by every process that it concerns."""
    if not everyone and os.environ.get("LOCAL_RANK", "0") != "0":
        time.sleep(_OTHERS_WAIT)
    # What a data-loading process raises comes with its stack trace before the sentence.
    sentence = _RAISED.split(sentence)[-1].removesuffix("\\n").strip()
    rank = os.environ.get("RANK", "0")
    where = "" if rank == "0" else f" of rank {rank} on {socket.gethostname()}"
    print(f"uni-sign: {kind}{where}: {sentence}", file=sys.stderr, flush=True)


def _split_stage(words: list[str], default: str | None) -> tuple[str, list[str]]:
    if words and not words[0].startswith("-"):
        return words[0], words[1:]
    if default is None:
        raise InputError(f"Name the stage to train first: {', '.join(stage_names())}.")
    return default, words


def _train(words: list[str]) -> int:
    name, flags = _split_stage(words, None)
    stage_type = load_stage(name)
    if {"-h", "--help"} & set(flags):
        program = f"uni-sign train {name}"
        build_parser(TrainConfig, stage_type.Config, program=program, defaults=stage_type.defaults).print_help()
        return 0
    kinds = (TrainConfig, stage_type.Config)
    config, stage_config = parse_flags(flags, *kinds, defaults=stage_type.defaults, section=stage_type.name)
    return _run(stage_type(stage_config, config.seed), config, as_plain(config, stage_config))


def _run(stage: Stage, config: TrainConfig, plain: dict[str, Any]) -> int:
    if config.eval and not plain.get("finetune"):
        raise InputError("--eval needs the weights to score: --finetune out/run/best_checkpoint.pth.")
    stage.check()
    # Importing torch's distributed stack takes seconds: wrong input is told before.
    from uni_sign.engine.loop import run_stage
    from uni_sign.engine.watchdog import STATUS_PREEMPTED

    try:
        run_stage(stage, config, plain)
    except PeerLostError as error:
        _complain(str(error), everyone=True)
        return STATUS_FAILED
    except RunError as error:
        _complain(str(error))
        return STATUS_FAILED
    except Preempted as stop:
        _complain(str(stop), kind="stopped")
        return STATUS_PREEMPTED
    return 0


def _evaluate(words: list[str]) -> int:
    from uni_sign.commands.checkpoints import CheckpointConfig, checkpoint_flag, stage_of

    program = "uni-sign evaluate"
    if {"-h", "--help"} & set(words):
        build_parser(CheckpointConfig, TrainConfig, program=program).print_help()
        print(_STAGE_FLAGS)
        return 0
    path = checkpoint_flag(words)
    defaults = {"eval": True, "zero_stage": 0, "output_dir": str(path.parent / "evaluation")}
    stage_type, parsed = stage_of(path, words, CheckpointConfig, TrainConfig, program=program, defaults=defaults)
    _, config, stage_config = parsed
    return _run(stage_type(stage_config, config.seed), config, as_plain(config, stage_config))


def _infer(words: list[str]) -> int:
    if words and not words[0].startswith("-"):
        return _infer_stage(words[0].replace("-", "_"), words[1:])
    from uni_sign.commands.checkpoints import CheckpointConfig
    from uni_sign.commands.infer import InferConfig, infer

    if {"-h", "--help"} & set(words):
        build_parser(CheckpointConfig, InferConfig, program="uni-sign infer").print_help()
        print(_STAGE_FLAGS)
        return 0
    return infer(words)


def _infer_stage(name: str, words: list[str]) -> int:
    load_stage(name)
    config: type
    run: Callable[[str, Sequence[str]], int]
    # Each imports what it needs alone.
    if name == "temporal":
        from uni_sign.commands.infer_temporal import TemporalInferConfig as config
        from uni_sign.commands.infer_temporal import infer_temporal as run
    elif name == "alignment":
        from uni_sign.commands.infer_alignment import AlignmentInferConfig as config
        from uni_sign.commands.infer_alignment import infer_alignment as run
    elif name == "rectified_flow":
        from uni_sign.commands.infer_rectified_flow import FlowInferConfig as config
        from uni_sign.commands.infer_rectified_flow import infer_rectified_flow as run
    elif name in ("skeleton", "hierarchical_image", "hierarchical_keypoint"):
        from uni_sign.commands.infer_pictures import PicturesConfig as config
        from uni_sign.commands.infer_pictures import infer_pictures as run
    elif name == "motion_autoencoder":
        raise InputError("motion_autoencoder moves no face by itself: use `uni-sign infer rectified_flow`.")
    else:
        raise InputError(
            f"{name} writes text of pose files: leave its name out, uni-sign infer --checkpoint F --poses P."
        )
    if {"-h", "--help"} & set(words):
        from uni_sign.commands.checkpoints import CheckpointConfig

        build_parser(CheckpointConfig, config, program=f"uni-sign infer {name}").print_help()
        print(_STAGE_FLAGS)
        return 0
    return run(name, words)


def _pipeline(words: list[str]) -> int:
    from uni_sign.commands.pipeline import pipeline, pipeline_parser
    from uni_sign.engine.watchdog import STATUS_PREEMPTED

    if {"-h", "--help"} & set(words):
        pipeline_parser().print_help()
        return 0
    try:
        return pipeline(words)
    except RunError as error:
        _complain(str(error))
        return STATUS_FAILED
    except Preempted as stop:
        _complain(str(stop), kind="stopped")
        return STATUS_PREEMPTED


def _show(words: list[str]) -> int:
    from uni_sign.commands.show import show

    parser = Parser(prog="uni-sign show")
    parser.add_argument("output_dir", type=Path, help="folder of a finished run")
    show(parser.parse_words(words).output_dir)
    return 0


def _view(words: list[str]) -> int:
    from uni_sign.commands.view import ViewConfig, view

    if {"-h", "--help"} & set(words):
        build_parser(ViewConfig, program="uni-sign view CLIP").print_help()
        return 0
    named = bool(words) and not words[0].startswith("-")
    return view(words[0] if named else "", words[1:] if named else words)


def _demo_data(words: list[str]) -> int:
    from uni_sign.data.demo import generate

    parser = Parser(prog="uni-sign demo-data")
    parser.add_argument("--data_root", type=Path, default=Path("."), help="where to put it (default: .)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the corpus (default: 0)")
    parser.add_argument("--videos", action="store_true", help="render a small video of every clip, too")
    parser.add_argument(
        "--keypoints", action="store_true", help="the keypoint pipeline's clips in keypoint_demo/ alone"
    )
    parser.add_argument("--talking_faces", action="store_true", help="drawn faces that talk in talking_faces/ alone")
    known = parser.parse_words(words)
    if known.talking_faces:
        from uni_sign.data.demo.talking_faces import generate_talking_faces
        from uni_sign.data.demo.wav2vec2 import write_wav2vec2

        folder = generate_talking_faces(known.data_root, seed=known.seed)
        write_wav2vec2(folder / "wav2vec2", known.seed)
        print(f"{folder} is complete.")
        return 0
    if known.keypoints:
        from uni_sign.data.demo.holistic import generate_holistic

        print(f"{generate_holistic(known.data_root, seed=known.seed)} is complete.")
        return 0
    generate(known.data_root, seed=known.seed, videos=known.videos)
    return 0


def _prepare(words: list[str]) -> int:
    if words[:1] in (["sequences"], ["text"]):
        return _prepare_sequences(words[0], words[1:])
    from uni_sign.commands.prepare import PrepareConfig, prepare

    if {"-h", "--help"} & set(words):
        build_parser(PrepareConfig, program="uni-sign prepare").print_help()
        return 0
    try:
        return prepare(words)
    except RunError as error:
        _complain(str(error), everyone=True)
        return STATUS_FAILED


def _prepare_sequences(kind: str, words: list[str]) -> int:
    from uni_sign.commands.prepare_sequences import SequencesConfig, TextConfig, prepare_sequences, prepare_text

    if {"-h", "--help"} & set(words):
        config = SequencesConfig if kind == "sequences" else TextConfig
        build_parser(config, program=f"uni-sign prepare {kind}").print_help()
        return 0
    return prepare_sequences(words) if kind == "sequences" else prepare_text(words)


def _extract(words: list[str]) -> int:
    config: type
    run: Callable[[Sequence[str]], int]
    if "--holistic" in words:
        words = [word for word in words if word != "--holistic"]
        from uni_sign.commands.extract_holistic import ExtractHolisticConfig as config
        from uni_sign.commands.extract_holistic import extract_holistic as run
    else:
        from uni_sign.commands.extract import ExtractConfig as config
        from uni_sign.commands.extract import extract as run

    if {"-h", "--help"} & set(words):
        build_parser(config, program="uni-sign extract").print_help()
        return 0
    try:
        return run(words)
    except RunError as error:
        _complain(str(error), everyone=True)
        return STATUS_FAILED


def _doctor(words: list[str]) -> int:
    from uni_sign.commands.doctor import DoctorConfig, doctor

    name, flags = _split_stage(words, "fine_tuning")
    if {"-h", "--help"} & set(flags):
        build_parser(DoctorConfig, TrainConfig, load_stage(name).Config, program="uni-sign doctor").print_help()
        return 0
    return doctor(name, flags)


def _trim(words: list[str]) -> int:
    from uni_sign.commands.trim import STAGE, trim

    if {"-h", "--help"} & set(words):
        build_parser(load_stage(STAGE).Config, program="uni-sign trim FOLDER").print_help()
        return 0
    if not words or words[0].startswith("-"):
        raise InputError("Name the mT5 folder to make first: uni-sign trim FOLDER [flags].")
    return trim(Path(words[0]), words[1:])


def _export(words: list[str]) -> int:
    from uni_sign.commands.export import export

    parser = Parser(prog="uni-sign export")
    parser.add_argument("source", type=Path, help="best_checkpoint.pth, or a folder that export made")
    parser.add_argument("target", type=Path, help="the folder, or the .pth file, to make")
    parser.add_argument(
        "--full_vocab",
        type=Path,
        metavar="MT5_FOLDER",
        help="give a trimmed model its whole vocabulary back, from the mT5 that it was trimmed from; "
        "TARGET is then a file if it ends with .pth",
    )
    known = parser.parse_words(words)
    export(known.source, known.target, known.full_vocab)
    return 0


if __name__ == "__main__":
    command()
