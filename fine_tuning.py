"""The main job: `deepspeed fine_tuning.py --use_descriptions`."""

import sys

from uni_sign.cli import command

if __name__ == "__main__":
    command(["train", "fine_tuning", *sys.argv[1:]])
