"""What can be wrong with a storage."""


class StorageError(RuntimeError):
    """The storage cannot be used for this study, or is in use by another process."""
