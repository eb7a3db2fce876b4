"""Stage 2: inpainting diffusion in the latent space of stage 1."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusion.pipeline import LesionInpaintPipeline
    from diffusion.unet import SPADEUNet3D
else:

    def __getattr__(name: str) -> Any:
        """Import a public class when it is first asked for (PEP 562), so that a config needs no torch."""
        if name not in MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(MODULES[name]), name)


MODULES = {
    "LesionInpaintPipeline": "diffusion.pipeline",
    "SPADEUNet3D": "diffusion.unet",
}

__all__ = ["LesionInpaintPipeline", "SPADEUNet3D"]
