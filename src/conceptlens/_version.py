"""The one place where the version stands."""

from importlib.metadata import PackageNotFoundError, version

__version__ = "0.1.0"


def package_version(name: str) -> str:
    """The installed version of a package."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
