"""`python -m uni_sign` is the `uni-sign` command."""

from uni_sign.cli import command

command()
