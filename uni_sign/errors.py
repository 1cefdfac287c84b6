"""What ends a command: every message is one sentence with the remedy."""


class InputError(Exception):
    """A flag, file or folder is wrong: commands print the message and exit with status 2."""


class SampleError(InputError):
    """One clip is unusable: `--bad_samples` decides whether it is reported and left out, or stops the run."""


class RunError(Exception):
    """A run cannot go on, though nothing was typed wrongly: commands print the message and exit with status 1."""


class PeerLostError(RunError):
    """Another process of the run is dead or out of reach; each process that notices says so."""


class Preempted(Exception):
    """A run was asked to stop and has saved what it had learnt: commands exit with status 75."""
