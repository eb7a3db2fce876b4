"""Another package of the same name is found before it does harm."""

import sys

import pytest

from foundation import command
from foundation.rooms import check_rooms


def test_the_projects_own_packages_pass():
    check_rooms()


@pytest.mark.parametrize("as_module", [True, False])
def test_a_folder_or_a_module_that_hides_one_is_named_in_one_sentence(tmp_path, monkeypatch, capsys, as_module):
    if as_module:
        (tmp_path / "training.py").write_text("")
    else:
        (tmp_path / "training").mkdir()
        (tmp_path / "training" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [one for one in sys.modules if one.split(".")[0] == "training"]:
        monkeypatch.delitem(sys.modules, name)
    sentence = rf"the package 'training' of lesion-diffusion is hidden: Python finds {tmp_path}.*; rename that"
    with pytest.raises(ImportError, match=sentence):
        check_rooms()
    monkeypatch.setattr(sys, "argv", ["lesion-diffusion", "--help"])
    with pytest.raises(SystemExit, match="error: the package 'training'"):
        command.main()
