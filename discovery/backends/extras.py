"""A package of an optional extra → imported, or one line with the command that installs it."""

import importlib
from types import ModuleType

from PIL import Image

from discovery.errors import BackendError


def needed(package: str, extra: str) -> ModuleType:
    """Imports a package of an extra, and leaves Pillow as it was.

    Ultralytics puts its own `Image.open` in Pillow's place: a file that is no image would then ask for a plug-in.

    Raises:
        BackendError: it is not installed, or something that it needs is not.
    """
    opens = Image.open
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise BackendError(f"package {package!r} is missing ({error}); install it: pip install '.[{extra}]'") from error
    finally:
        Image.open = opens
