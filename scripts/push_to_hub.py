"""Push a pipeline, or an autoencoder alone, to a Hugging Face Hub repository.

python scripts/push_to_hub.py --pipeline runs/classifier/pipeline --repo owner/name
python scripts/push_to_hub.py --pipeline runs/vae/model --repo owner/autoencoder
Load it anywhere with `LesionInpaintPipeline.from_pretrained("owner/name")`, or an autoencoder with
`load_autoencoder("owner/autoencoder")`.
"""

from dataclasses import dataclass

from foundation.config import ExistingFolder, launch, read_arguments


@dataclass(frozen=True)
class PushConfig:
    """What goes where.

    Attributes:
        pipeline: Folder of the pipeline or of the autoencoder.
        repo: Repository "owner/name"; made if it does not exist.
        private: Make it private.
        message: Commit message.
        token: Access token; none uses the stored login or HF_TOKEN.
    """

    pipeline: ExistingFolder
    repo: str
    private: bool = True
    message: str = "Upload the model"
    token: str | None = None


ARGUMENTS = read_arguments(PushConfig, __name__)

from autoencoder.loading import load_autoencoder
from diffusion import LesionInpaintPipeline


def main(config: PushConfig) -> None:
    """Load, which checks that the folder is complete, and push."""
    folder = config.pipeline
    if (folder / "model_index.json").is_file():
        model = LesionInpaintPipeline.from_pretrained(folder)
    elif (folder / "config.json").is_file():
        model = load_autoencoder(folder)
    else:
        raise ValueError(
            f"{folder}: not a folder of a pipeline (no model_index.json) or of an autoencoder (no config.json); train "
            "one with train_ldm.py or train_vae.py"
        )
    url = model.push_to_hub(
        config.repo, private=config.private, commit_message=config.message, token=config.token, safe_serialization=True
    )
    print(f"pushed: {url}")


if __name__ == "__main__":
    launch(main, ARGUMENTS)
