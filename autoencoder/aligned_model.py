"""The base of this project's models: loaded weights lie aligned in memory of their own."""

import os
from typing import Any

from diffusers import ModelMixin


class AlignedModel(ModelMixin):
    """A Diffusers model whose loaded weights lie in memory as they did before saving, so that it gives the same bits.

    `safetensors` maps a file into memory, where a tensor starts at whatever byte the header and the tensors before it
    end. PyTorch's own allocations start at multiples of 64 bytes, and kernels of some CPUs add in another order
    elsewhere.

    A model names it before Diffusers' classes: `class SPADEUNet3D(AlignedModel, ModelMixin, ConfigMixin)`. Diffusers
    loads a pipeline's component only if the component's own module has the name `ModelMixin`.
    """

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Any:
        """Load as Diffusers' `ModelMixin.from_pretrained` does, then copy every parameter and buffer once.

        Args:
            pretrained_model_name_or_path: A folder written by `save_pretrained`, or a repository "owner/name".
            kwargs: Those of Diffusers.
        Returns: The model in eval mode, with its loading report if `output_loading_info` asks for it. The file may be
            replaced or deleted.
        Raises: OSError, ValueError: As Diffusers says.
        """
        loaded = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = tensor.data.clone()
        return loaded
