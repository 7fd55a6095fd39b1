"""How a trial can end other than well."""


class TrainingError(RuntimeError):
    """A trial that cannot succeed however often it is repeated; the message says why."""


class OutOfMemory(RuntimeError):
    """The trial needs more memory than it may take; another attempt may be given more."""


class CheckpointError(ValueError):
    """A folder that is no checkpoint, or a damaged one."""
