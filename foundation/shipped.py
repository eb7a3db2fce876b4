"""Folders of the project that are no packages, in a checkout and in an installed copy."""

from pathlib import Path


def shipped(folder: str) -> Path:
    """Where the project's `scripts`, `configs` or another such folder is.

    An installed copy has them below `lesion_diffusion/`, beside the packages (`package-dir` in pyproject.toml); a
    checkout has them at its top.

    Args:
        folder: Its name in the checkout.
    Returns: The path; not looked for.
    """
    root = Path(__file__).parents[1]
    installed = root / "lesion_diffusion" / folder
    return installed if installed.is_dir() else root / folder
