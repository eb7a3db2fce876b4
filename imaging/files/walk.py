"""Walking a folder, the one rule for links."""

import os
from collections.abc import Iterator
from pathlib import Path


def walk(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Every folder at any depth with the names of its files; links to folders elsewhere are followed.

    Args:
        root: The folder.
    Returns: Folders from the top down, names in order. No folder comes twice: a link to one that lies below `root`
        anyway, or that was followed already, is passed over, so that links never loop.
    """
    real_root = Path(root).resolve()
    visited = {real_root}
    for folder, below, names in os.walk(root, followlinks=True):
        kept = []
        for name in sorted(below):
            path = Path(folder, name)
            real = path.resolve()
            if real not in visited and not (path.is_symlink() and real.is_relative_to(real_root)):
                visited.add(real)
                kept.append(name)
        below[:] = kept
        yield Path(folder), sorted(names)


def files_below(root: Path) -> Iterator[Path]:
    """Every file that `walk` finds, hidden ones left out."""
    return (folder / name for folder, names in walk(root) for name in names if not name.startswith("."))
