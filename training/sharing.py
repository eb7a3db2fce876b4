"""The result of a training on the Hugging Face Hub: looked into before the training, pushed when it is finished."""

import sys
from pathlib import Path

from foundation.upload import prepare_repository, push_folder
from training.config import TrainingConfig


def check_push(config: TrainingConfig) -> None:
    """Refuse a push that cannot succeed before hours are spent; a Hub that is out of reach now may be there later.

    Raises: ValueError: As `foundation.upload.prepare_repository` says.
    """
    if config.push_to_hub is None:
        return
    try:
        prepare_repository(config.push_to_hub, private=config.hub_private)
    except OSError as error:
        print(f"note: {error}; the push is tried when the training is finished", file=sys.stderr)


def push_result(config: TrainingConfig, folder: Path) -> None:
    """Push the saved model, if that is asked for; where it fails, say how to do it later, for the model is there."""
    if config.push_to_hub is None:
        return
    try:
        print(f"pushed: {push_folder(folder, config.push_to_hub, private=config.hub_private)}")
    except (ValueError, OSError) as error:
        visibility = "" if config.hub_private else " --private false"
        print(
            f"not pushed: {error}. The model is in {folder}; push it later with\n"
            f"  scripts/push_to_hub.py --pipeline {folder} --repo {config.push_to_hub}{visibility}",
            file=sys.stderr,
        )
