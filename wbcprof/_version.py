"""The version, stated once, in meson.build: read from the installed distribution when asked for."""

from functools import cache


@cache
def version() -> str:
    """Version of the installed package; importing what tells it takes longer than the package."""
    from importlib.metadata import version

    return version("wbcprof")
