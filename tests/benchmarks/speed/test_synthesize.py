"""The benchmark of synthesis on a phantom."""

import pytest

from benchmarks.speed import synthesize
from imaging.files.ct import write_ct
from imaging.phantom.chest import chest_phantom, phantom_image


@pytest.mark.slow
def test_synthesize_counts_lesions_and_seconds_and_compares_the_files(chain, tmp_path, capsys, forked_processes):
    phantom = chest_phantom((40, 80, 96), (4.0, 3.0, 3.0), n_nodules=0, seed=1)
    write_ct(phantom_image(phantom), tmp_path / "scans/one.nii.gz")
    synthesize.main(
        synthesize.Config(
            scans=tmp_path / "scans",
            pipeline=str(chain.ldm / "pipeline"),
            lesions=(2,),
            lesions_per_scan=1,
            processes=(1, 2),
            batch_sizes=(1,),
            options="--steps 1 --least-plausibility 0 --least-lung 0.5 --ranges.diameter_mm 6.5,9",
            work=tmp_path / "work",
        )
    )
    printed = capsys.readouterr().out
    assert "| 1 | 1 | " in printed and "| 2 | 1 | " in printed
    assert "the same 8 files, to the byte, by any number of processes" in printed
    assert not (tmp_path / "work/first/manifest.parquet").exists()
