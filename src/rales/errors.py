"""The exception for wrong usage, as opposed to a job that found a problem."""


class UsageError(ValueError):
    """Wrong words of the user (an unknown name or value), as opposed to a job that found a problem."""
