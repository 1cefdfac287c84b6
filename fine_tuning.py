"""The main job: `deepspeed fine_tuning.py --use_descriptions`."""

import sys

from uni_sign.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", "fine_tuning", *sys.argv[1:]]))
