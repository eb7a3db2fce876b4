"""The benchmark of guidance on the tiny chain."""

import pytest

from benchmarks.speed import guidance_overhead


def test_guidance_overhead_compares_every_kind_of_call_in_each_round(chain, capsys, monkeypatch):
    called = []
    generate = guidance_overhead.LesionInpaintPipeline.generate
    monkeypatch.setattr(
        guidance_overhead.LesionInpaintPipeline,
        "generate",
        lambda pipe, *given, **options: called.append(pipe.guide) or generate(pipe, *given, **options),
    )
    config = guidance_overhead.GuidanceConfig(str(chain.classifier / "pipeline"), crop_size=16, steps=1, repeats=2)
    guidance_overhead.main(config)
    printed = capsys.readouterr().out
    rows = [line.split(" | ") for line in printed.splitlines() if line.startswith("| ")][1:]
    spaces = [f"| {space}, {requested}" for space in ("latent", "decoded") for requested in ("malignancy", "all four")]
    assert [row[0] for row in rows] == ["| unguided", *spaces]  # this U-Net has no attributes of its own
    assert rows[0][2] == "1.00 (1.00 … 1.00) |" and printed.count("(at most 2.2)") == 2
    kinds = [guide and guidance_overhead.decodes(guide) for guide in called]
    assert kinds[:5] == [None, False, False, True, True] and kinds[5:10] == [False, False, True, True, None]
    with pytest.raises(ValueError, match="repeats 0: expected at least 1"):
        guidance_overhead.GuidanceConfig(repeats=0)
