"""Names that a package exports and imports only when they are asked for."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_exports(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """A package's `__getattr__` (PEP 562): importing the package alone, as a config does, costs nothing.

    Args:
        package: The package's `__name__`.
        modules: Public name -> the module it lives in.
    Returns: A function that raises AttributeError for any other name.
    """

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(modules[name]), name)

    return get
