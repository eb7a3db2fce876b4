"""The packages of the project by name, and whether Python finds those and no others.

Their names are short, and a laboratory's own folder or package may have one of them. Saved pipelines name their classes
by these names (`diffusion.unet`), so that an installed copy cannot have others.
"""

from importlib.util import find_spec
from pathlib import Path

ROOMS = ("foundation", "imaging", "autoencoder", "diffusion", "guidance", "evaluation", "training")


def check_rooms() -> None:
    """Raise ImportError where another package or folder hides one of the project's."""
    root = Path(__file__).resolve().parents[1]
    for room in ROOMS:
        spec = find_spec(room)
        places = [Path(place).resolve() for place in (spec.submodule_search_locations if spec else None) or []]
        if root / room not in places[:1]:
            found = places[0] if places else (spec.origin if spec and spec.origin else "nothing")
            raise ImportError(
                f"the package {room!r} of lesion-diffusion is hidden: Python finds {found}, expected {root / room}; "
                "rename that, start from another folder, or install lesion-diffusion into an environment of its own"
            )
