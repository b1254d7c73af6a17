"""A package of an optional extra → imported, or one line with the command that installs it."""

import importlib
from types import ModuleType

from discovery.errors import BackendError


def needed(package: str, extra: str) -> ModuleType:
    """Imports a package of an extra.

    Raises:
        BackendError: it is not installed, or something that it needs is not.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise BackendError(f"package {package!r} is missing ({error}); install it: pip install '.[{extra}]'") from error
