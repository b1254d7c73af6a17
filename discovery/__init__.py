"""Automated discovery of the spurious cues that vision models rely on."""

__version__ = "0.3.2"
__all__ = ["discover", "read_config"]


def __getattr__(name: str):
    """Loads the public functions on first use, so that `import discovery` stays instant."""
    if name == "discover":
        from discovery.corridor import discover

        return discover
    if name == "read_config":
        from discovery.config import read_config

        return read_config
    raise AttributeError(f"module 'discovery' has no attribute {name!r}")
