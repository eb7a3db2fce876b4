import pytest


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Curves are drawn at every checkpoint, which takes longer than the steps between two; the tests of scripts do."""
    monkeypatch.setattr("training.run.plot_curves", lambda metrics, picture: None)
