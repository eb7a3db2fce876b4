"""CPU seconds of the codebook's running sums: added up by code, and as the product with a one-hot matrix.

    uv run benchmarks/speed/codebook.py

A step of the VQ autoencoder sums the latent cells that were assigned to each code (`autoencoder.networks.codebook`).
`index_add` is what the codebook does. `one-hot` multiplies the cells by a matrix of cells x codes. Both give the same
sums, which is checked. The runs alternate, and the fastest of each counts.
"""

import time
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from foundation.config import launch, parse_config


@dataclass(frozen=True)
class CodebookConfig:
    """What to measure.

    Attributes:
        cells: Numbers of latent cells in a step; a batch of 4 crops of 48 voxels at factor 4 has 6912.
        codes: Of the codebook.
        channels: Of the latent.
        repeats: Runs of each.
    """

    cells: tuple[int, ...] = (6912, 55296)
    codes: int = 1024
    channels: int = 8
    repeats: int = 9


def main(config: CodebookConfig) -> None:
    """Print the table."""
    print(f"{config.codes} codes, {config.channels} channels\n")
    print("| cells | one-hot, ms | index_add, ms | ratio |\n|---|---|---|---|")
    for count in config.cells:
        generator = torch.Generator().manual_seed(0)
        cells = torch.randn(count, config.channels, generator=generator)
        assigned = torch.randint(config.codes, (count,), generator=generator)
        fastest = {"one_hot": float("inf"), "index_add": float("inf")}
        sums = {}
        for _ in range(config.repeats):
            began = time.process_time()
            sums["one_hot"] = F.one_hot(assigned, config.codes).to(cells).T @ cells
            between = time.process_time()
            sums["index_add"] = torch.zeros(config.codes, config.channels).index_add_(0, assigned, cells)
            ended = time.process_time()
            fastest["one_hot"] = min(fastest["one_hot"], between - began)
            fastest["index_add"] = min(fastest["index_add"], ended - between)
        torch.testing.assert_close(sums["index_add"], sums["one_hot"], rtol=1e-4, atol=1e-4)
        slow, fast = 1000 * fastest["one_hot"], 1000 * fastest["index_add"]
        print(f"| {count} | {slow:.2f} | {fast:.2f} | {slow / fast:.0f} |")


if __name__ == "__main__":
    launch(main, parse_config(CodebookConfig))
