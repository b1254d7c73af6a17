"""The three errors a user can cause; each message names what was wrong and the next step."""


class ConfigError(ValueError):
    """A setting that cannot be used: unknown, out of range, or in conflict with another."""


class DataError(ValueError):
    """Images, manifests or tables that cannot be used as given."""


class BackendError(RuntimeError):
    """A model or service that is missing, cannot be loaded, or answers wrongly."""


USER_ERRORS = (ConfigError, DataError, BackendError)
