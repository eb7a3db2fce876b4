"""Push a pipeline, an autoencoder or a prepared dataset to the Hugging Face Hub, with its card.

uv run scripts/push_to_hub.py --pipeline runs/classifier/pipeline --repo owner/name
uv run scripts/push_to_hub.py --pipeline runs/vae/model --repo owner/autoencoder
uv run scripts/push_to_hub.py --dataset data/nodules --repo owner/nodules
The access token is HF_TOKEN or that of `hf auth login`. Load a model with
`LesionInpaintPipeline.from_pretrained("owner/name")` or `load_autoencoder("owner/autoencoder")`. Load a dataset with
`hf download owner/nodules --repo-type dataset --local-dir data/nodules`, and then pass `--data data/nodules`.
"""

from dataclasses import dataclass
from pathlib import Path

from foundation.config import ExistingFolder, launch, read_arguments


@dataclass(frozen=True, kw_only=True)
class PushConfig:
    """What to push, and where; give either `pipeline` or `dataset`.

    Attributes:
        pipeline: Folder of the pipeline or of the autoencoder.
        dataset: Folder of the prepared dataset.
        repo: Repository "OWNER/NAME"; it is created if it does not exist.
        report: Folder of a report of evaluate.py or evaluate_vae.py. The model's card is written again and quotes its
            figures.
        private: Make the repository private, and refuse a public one.
        revision: Existing branch; null is the default one.
        message: Commit message.
    """

    pipeline: ExistingFolder | None = None
    dataset: ExistingFolder | None = None
    repo: str
    report: ExistingFolder | None = None
    private: bool = True
    revision: str | None = None
    message: str = "Upload"

    def __post_init__(self) -> None:
        if (self.pipeline is None) == (self.dataset is None):
            raise ValueError("give either --pipeline (also for an autoencoder) or --dataset")
        if self.report is not None and self.pipeline is None:
            raise ValueError(f"report {self.report}: goes with --pipeline, whose card quotes it")


ARGUMENTS = read_arguments(PushConfig, __name__)

from autoencoder.loading import load_autoencoder
from diffusion import LesionInpaintPipeline
from foundation.upload import check_target, prepare_repository, push_folder
from imaging.dataset.publishing import push_dataset
from training.model_card import write_model_card


def main(config: PushConfig) -> None:
    """Check that the folder is complete, write its card where there is none, and push."""
    if config.dataset is not None:
        print("note: nodule_id and patient_id go along as they are; real names have no place in them")
        url = push_dataset(config.dataset, config.repo, config.private, config.revision, config.message)
    else:
        url = push_model(config)
    print(f"pushed: {url}")


def push_model(config: PushConfig) -> str:
    """Push the pipeline or autoencoder; the commit's address."""
    folder = config.pipeline
    assert folder is not None  # checked by the config
    check_target(config.repo)
    check_complete(folder)
    prepare_repository(config.repo, private=config.private)
    if config.report is not None or not (folder / "README.md").is_file():
        run = folder.parent if (folder.parent / "config.yaml").is_file() else None
        write_model_card(folder, run, config.repo, config.report)
    return push_folder(folder, config.repo, private=config.private, revision=config.revision, message=config.message)


def check_complete(folder: Path) -> None:
    """Load the model. Raises ValueError if the folder holds none, or one that is damaged."""
    if (folder / "model_index.json").is_file():
        LesionInpaintPipeline.from_pretrained(folder)
    elif (folder / "config.json").is_file():
        load_autoencoder(folder)
    else:
        raise ValueError(
            f"{folder}: not a folder of a pipeline (no model_index.json) or of an autoencoder (no config.json); train "
            "one with train_ldm.py or train_vae.py"
        )


if __name__ == "__main__":
    launch(main, ARGUMENTS)
