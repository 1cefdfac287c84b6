"""What ends a command: every message is one sentence with the remedy."""

_LONGEST = 1000  # characters
_MEMORY_SIGNS = ("out of memory", "can't allocate memory", "not enough memory")


class InputError(Exception):
    """A flag, file or folder is wrong: commands print the message and exit with status 2."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class SampleError(InputError):
    """One clip is unusable: `--bad_samples` decides whether it is reported and left out, or stops the run."""


class RunError(Exception):
    """A run cannot go on, though nothing was typed wrongly: commands print the message and exit with status 1."""


class PeerLostError(RunError):
    """Another process of the run is dead or out of reach; each process that notices says so."""


class Preempted(Exception):
    """A run was asked to stop and has saved what it had learnt: commands exit with status 75."""


class Done(Exception):
    """All that was asked is done, before any training: commands print the message and exit with status 0."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory is exhausted, that of a GPU too, as PyTorch says it."""
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in _MEMORY_SIGNS)


def one_line(text: str) -> str:
    """Text that quotes a stranger's file, short and printable: no line break, no control of the terminal."""
    return _cut("".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in _cut(text)))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST * 2 // 3]} ... {text[-_LONGEST // 3 :]}"
