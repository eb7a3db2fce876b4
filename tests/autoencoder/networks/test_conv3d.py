"""The convolution of all networks gives the gradients of PyTorch's in float32, also where autocast would not."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from autoencoder.networks.blocks import Conv3d


@pytest.mark.parametrize("shape", [(2, 2, 2), (2, 3, 4), (3, 2, 4), (4, 6, 2), (1, 2, 3)])
@pytest.mark.parametrize("batch", [1, 3])
def test_gradients_under_bf16_are_those_of_float32_to_rounding(shape, batch):
    torch.manual_seed(0)
    plain = nn.Conv3d(8, 32, 3, padding=1)
    ours = Conv3d(8, 32, 3, padding=1).to(memory_format=torch.channels_last_3d)
    ours.load_state_dict(plain.state_dict())
    x, upstream = torch.randn(batch, 8, *shape), torch.randn(batch, 32, *shape)
    plain(x).backward(upstream)
    for _ in range(3):  # a kernel that reads what nobody wrote is often lucky
        dirty = [torch.full((size,), torch.nan) for size in (8 * 32 * 27, 2 * 8 * 32 * 27, 4096, 64000)]
        del dirty
        ours.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            made = ours(x.contiguous(memory_format=torch.channels_last_3d))
        assert made.dtype == torch.bfloat16
        made.backward(upstream.to(made.dtype))
        for mine, theirs in zip(ours.parameters(), plain.parameters(), strict=True):
            assert_close(mine.grad, theirs.grad, rtol=0, atol=0.02 * float(theirs.grad.abs().max()))
