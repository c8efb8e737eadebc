"""The version, stated once, in meson.build; importing this takes longer than all of wbcprof."""

from importlib.metadata import version

__version__ = version("wbcprof")
