"""The search on phantom nodules."""

from dataclasses import replace

import pytest

from benchmarks.choices import search
from imaging.dataset.nodules import save_nodule_dataset
from imaging.phantom.chest import phantom_nodules


@pytest.mark.slow
def test_search_judges_each_choice_once(tmp_path, monkeypatch):
    rows = phantom_nodules(18, 32, 2.0)
    data = tmp_path / "nodules"
    save_nodule_dataset(({**row, "malignancy": 3.0} for row in rows), data, 32)
    config = search.SearchConfig(
        stage="autoencoder", data=data, out=tmp_path / "search", steps=2, lesions=2, only="factor 2;KL 1e-2"
    )
    search.main(config)
    text = (config.out / "autoencoder.md").read_text()
    assert "| factor 2 |" in text and "| KL 1e-2 |" in text and "| 2 |" in text.splitlines()[2]
    monkeypatch.setattr(search, "run_script", lambda *_: pytest.fail("trained twice"))
    search.main(config)
    assert (config.out / "autoencoder.md").read_text() == text
    with pytest.raises(ValueError, match="only: 'nothing' is no choice; known: shipped, first part; 4 channels"):
        search.main(replace(config, only="nothing"))
    with pytest.raises(ValueError, match="stage ldm: give --latents and --vae"):
        search.main(replace(config, stage="ldm", only=None))
