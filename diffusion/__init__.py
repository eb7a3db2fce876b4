"""Stage 2: inpainting diffusion in the latent space of stage 1."""

from diffusion.pipeline import LesionInpaintPipeline
from diffusion.unet import SPADEUNet3D

__all__ = ["LesionInpaintPipeline", "SPADEUNet3D"]
