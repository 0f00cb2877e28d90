"""The one place where the version stands."""

from functools import cache

__version__ = "0.2.0"


@cache
def package_version(name: str) -> str:
    """The installed version of a package."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
