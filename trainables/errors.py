"""How a trial can end other than well."""


class TrainingError(RuntimeError):
    """A trial that cannot succeed however often it is repeated; the message says why."""


class OutOfMemory(RuntimeError):
    """The trial needs more memory than it may take; another attempt may be given more."""


class HostMemoryShort(RuntimeError):
    """A trial on a GPU found too little memory of its node, not of the GPU.

    A larger share of the GPU or smaller batches do not help, more memory of the node does.
    """


class NoGpu(OSError):
    """A GPU was to be used and none answers here; another node may have one."""


class Superseded(RuntimeError):
    """Another attempt at the same trial has begun: this one must not write anything more."""


class CheckpointError(ValueError):
    """A folder that is no checkpoint, or a damaged one."""
