"""Errors with which a trial can end."""


class TrainingError(RuntimeError):
    """A trial that cannot succeed however often it is repeated; the message says why."""


class OutOfMemory(RuntimeError):
    """The trial needs more memory than it may use; another attempt may get more."""


class HostMemoryShort(RuntimeError):
    """A trial on a GPU ran out of its node's memory, not of the GPU's.

    A larger share of the GPU or smaller batches do not help, but more memory of the node does.
    """


class NoGpu(OSError):
    """A GPU was asked for, but none can be used here; another node may have one."""


class Superseded(RuntimeError):
    """Another attempt at the same trial has begun: this one must not write anything more."""


class Paused(RuntimeError):
    """The sweep is being stopped: the trial has saved its state, and continues another time."""


class CheckpointError(ValueError):
    """A folder that is not a checkpoint, or a damaged checkpoint."""


def kind_of(error: Exception) -> str:
    """Return the name under which a parent process raises an error of this process again.

    What storage raises has many names; by any of them, another attempt may succeed.
    """
    plain = isinstance(error, OSError) and not isinstance(error, FileNotFoundError | NoGpu)
    return OSError.__name__ if plain else type(error).__name__
