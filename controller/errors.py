"""One root for everything that `allot` raises on purpose."""


class AllotError(Exception):
    """Base class of all errors raised by allot."""


class ConfigError(AllotError, ValueError):
    """A setting is out of range or contradicts another one."""


class BackendError(AllotError, RuntimeError):
    """A language model could not make an attempt."""


class TraceFormatError(AllotError, ValueError):
    """A trace set is incomplete, damaged or of an unknown version."""


class CheckpointError(AllotError, ValueError):
    """A controller checkpoint is missing, damaged, hostile or does not fit."""


class IllegalActionError(AllotError, ValueError):
    """An action was chosen that its mask forbids."""


class EvaluationError(AllotError, ValueError):
    """A saved evaluation is missing, damaged or of an unknown version."""
