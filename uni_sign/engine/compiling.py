"""`--compile`: torch.compile on the modules of a model that gain by it, in place."""

import os
import shutil
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from uni_sign.errors import InputError

# Beyond it torch goes on uncompiled, with a warning. A block is compiled anew for what tells it from other blocks
# (encoder or decoder, the first or a later one) and for a batch or length of one; not for other lengths.
_MOST_VARIANTS = 32


def check_compiler() -> None:
    """Raise InputError where torch.compile would find no C++ compiler."""
    named = os.environ.get("CXX", "")
    if not any(shutil.which(name) for name in (named, "g++", "clang++") if name):
        raise InputError("--compile needs a C++ compiler: install g++, name one in CXX, or leave the flag out.")


def compile_in_place(modules: Iterable[nn.Module], backend: Any = "inductor") -> None:
    """Compile each module's forward, sizes being symbols; the modules and the names of their weights stay.

    Evaluation runs uncompiled (see `uni_sign.engine.evaluation`): a search grows its sequences token by token.
    """
    dynamo: Any = torch._dynamo
    dynamo.config.recompile_limit = max(dynamo.config.recompile_limit, _MOST_VARIANTS)
    for module in modules:
        module.compile(backend=backend, dynamic=True)
