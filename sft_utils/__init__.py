"""Helpers shared by the SFT notebooks, in rooms: README.md says which module is where.

Notebooks take modules by their name alone, `from sft_utils import tickets`: a recorded notebook
outlives a move from room to room. The package and its tests name the room. Nothing heavy is
imported before it is used. `__init__.pyi` tells editors the same.
"""

import importlib
from pathlib import Path
from types import ModuleType

__version__ = "0.1.0"

_FOLDERS = {p.parent.name for p in Path(__file__).parent.glob("*/__init__.py")}
_ROOMS = sorted(_FOLDERS - {"preflight"})
"""All but the one whose modules are taken from it by name, some being called as others are."""


def __getattr__(name: str) -> ModuleType:
    """The module of that name, from the room that holds it."""
    here = Path(__file__).parent
    room = next((r for r in _ROOMS if (here / r / f"{name}.py").is_file()), None)
    if room is None or name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.{room}.{name}")


def __dir__() -> list[str]:
    """What a notebook can complete: names of modules beside those of rooms."""
    folders = [Path(__file__).parent / room for room in ("", *_ROOMS)]
    modules = {p.stem for folder in folders for p in folder.glob("[!_]*.py")}
    return sorted({*globals(), *_FOLDERS, *modules})
