"""The two errors that are the user's to mend: every message is one sentence with the remedy."""


class InputError(Exception):
    """A flag, file or folder is wrong: commands print the message and exit with status 2."""


class SampleError(InputError):
    """One clip is unusable: `--bad_samples` decides whether it is reported and left out, or stops the run."""
