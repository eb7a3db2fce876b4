"""Push a pipeline to a Hugging Face Hub repository.

python scripts/push_to_hub.py --pipeline runs/classifier/pipeline --repo owner/name
Load it anywhere with `LesionInpaintPipeline.from_pretrained("owner/name")`.
"""

from dataclasses import dataclass
from pathlib import Path

from diffusion import LesionInpaintPipeline
from training.config import launch


@dataclass(frozen=True)
class PushConfig:
    """What goes where.

    Attributes:
        pipeline: Folder of the pipeline.
        repo: Repository "owner/name"; made if it does not exist.
        private: Make it private.
        message: Commit message.
        token: Access token; none uses the stored login or HF_TOKEN.
    """

    pipeline: Path
    repo: str
    private: bool = True
    message: str = "Upload the lesion inpainting pipeline"
    token: str | None = None


def main(config: PushConfig) -> None:
    """Load, which checks that the folder is complete, and push."""
    if not (config.pipeline / "model_index.json").is_file():
        raise ValueError(f"{config.pipeline}: not a pipeline folder (no model_index.json); train one with train_ldm.py")
    pipeline = LesionInpaintPipeline.from_pretrained(config.pipeline)
    url = pipeline.push_to_hub(
        config.repo, private=config.private, commit_message=config.message, token=config.token, safe_serialization=True
    )
    print(f"pushed: {url}")


if __name__ == "__main__":
    launch(main, PushConfig)
