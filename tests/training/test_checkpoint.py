"""Checkpoints survive a kill at any moment and say what does not fit."""

import multiprocessing
import os
import resource
import signal
from pathlib import Path

import pytest
import torch
from torch import nn

from autoencoder.pretrained import resolve_folder
from foundation.atomic import recover, write_atomically
from training.checkpoint import Progress, load_checkpoint, newest_checkpoint, read_progress, save_checkpoint


def trained(width: int = 3) -> dict:
    """Model and optimiser after one step, as the parts of a checkpoint."""
    model = nn.Linear(4, width)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.randn(2, 4)).square().sum().backward()
    optimizer.step()
    return {"model": model, "optimizer": optimizer}


def loaded(folder: Path, parts: dict) -> Progress:
    """What :func:`load_checkpoint` makes of the newest one."""
    return load_checkpoint(newest_checkpoint(folder), parts)


def killed(action) -> None:
    """Run `action` in a process that it ends with SIGKILL."""
    process = multiprocessing.get_context("fork").Process(target=action)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


def kill_self(*_) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_folder_moved_aside_by_a_killed_writer_comes_back(tmp_path):
    def write(folder: Path, text: str) -> None:
        folder.mkdir()
        (folder / "config.json").write_text(text)

    path = tmp_path / "model"
    write_atomically(path, lambda temporary: write(temporary, "old"))

    def die_between_the_renames() -> None:
        Path.rename, rename = lambda self, to: (rename(self, to), kill_self()), Path.rename
        write_atomically(path, lambda temporary: write(temporary, "new"))

    killed(die_between_the_renames)
    assert not path.exists()  # only the complete old folder, beside it
    recover(path)
    assert (path / "config.json").read_text() == "old"
    killed(die_between_the_renames)
    write_atomically(path, lambda temporary: write(temporary, "newer"))
    assert (path / "config.json").read_text() == "newer" and [p.name for p in tmp_path.iterdir()] == ["model"]
    killed(die_between_the_renames)
    assert resolve_folder(path) == path and path.is_dir()  # whoever loads it next


def test_a_temporary_name_keeps_the_ending(tmp_path):
    names = []
    write_atomically(tmp_path / "scan.nii.gz", lambda temporary: names.append(temporary.name) or temporary.touch())
    assert names[0].endswith("scan.nii.gz") and names[0] != "scan.nii.gz"


def test_parts_come_back_bit_for_bit(tmp_path):
    parts, others = trained(), trained()
    save_checkpoint(tmp_path / "checkpoint", 17, parts, seconds=2.5)
    assert loaded(tmp_path / "checkpoint", others).step == 17
    assert read_progress(tmp_path / "checkpoint") == (17, 2.5) and read_progress(tmp_path) == (0, 0)
    for name, value in parts["model"].state_dict().items():
        assert torch.equal(others["model"].state_dict()[name], value)
    mine, other = parts["optimizer"].state_dict()["state"], others["optimizer"].state_dict()["state"]
    assert all(torch.equal(mine[i][name], other[i][name]) for i in mine for name in mine[i])


def test_without_a_checkpoint_a_run_begins_at_step_0(tmp_path):
    assert loaded(tmp_path / "checkpoint", trained()).step == 0


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "new folder" / "state"
    write_atomically(path, lambda temporary: temporary.write_text("old"))

    def fail(temporary: Path) -> None:
        temporary.write_text("ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]


def test_a_writer_killed_in_mid_writing_leaves_the_old_file_and_the_next_write_clears_up(tmp_path):
    path = tmp_path / "state"
    write_atomically(path, lambda temporary: temporary.write_text("old"))
    killed(lambda: write_atomically(path, lambda temporary: (temporary.write_text("ne"), kill_self())))
    assert path.read_text() == "old"
    write_atomically(path, lambda temporary: temporary.write_text("new"))
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def write_folder(text: str):
    def write(folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_text(text)

    return write


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "model"
    write_atomically(path, write_folder("old"))
    (path / "left over").touch()
    write_atomically(path, write_folder("new"))
    assert [file.name for file in path.iterdir()] == ["config.json"] and list(tmp_path.iterdir()) == [path]
    assert (path / "config.json").read_text() == "new"


@pytest.mark.parametrize("kept", [0, 1])
def test_a_writer_killed_between_two_renames_of_a_folder_leaves_old_and_new_complete(tmp_path, monkeypatch, kept):
    path = tmp_path / "model"
    write_atomically(path, write_folder("old"))
    renames = []

    def rename(self, target, real=Path.rename):
        renames.append(self)
        return real(self, target) if len(renames) <= kept else kill_self()

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        killed(lambda: write_atomically(path, write_folder("new")))
    assert path.exists() == (kept == 0)
    assert sorted((folder / "config.json").read_text() for folder in tmp_path.iterdir()) == ["new", "old"]
    write_atomically(path, write_folder("newest"))
    assert (path / "config.json").read_text() == "newest" and list(tmp_path.iterdir()) == [path]


def test_a_checkpoint_of_other_parts_or_another_shape_is_refused(tmp_path):
    save_checkpoint(tmp_path, 3, trained())
    with pytest.raises(ValueError, match=r"state\.pt: holds \['model', 'optimizer'\], this run has \['model'\]"):
        loaded(tmp_path, {"model": nn.Linear(4, 3)})
    with pytest.raises(
        ValueError, match=r"(?s)state\.pt: model does not fit this config .*size mismatch.*another --out"
    ):
        loaded(tmp_path, trained(width=5))


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, caplog):
    parts = trained()
    for step in (1, 2):
        save_checkpoint(tmp_path, step, parts)
    content = bytearray((tmp_path / "state.pt").read_bytes())
    for damage in ("flipped", "cut", "missing"):
        others = trained()
        if damage == "flipped":
            place = content.index(parts["model"].weight.detach().numpy().tobytes())  # a weight, not the archive's frame
            content[place] ^= 1
            (tmp_path / "state.pt").write_bytes(content)
        elif damage == "cut":
            (tmp_path / "state.pt").write_bytes(content[:-100])
        else:
            (tmp_path / "state.pt").unlink()
        caplog.clear()
        assert loaded(tmp_path, others).step == 1
        assert "state.pt: missing or damaged; going on from previous.pt" in caplog.text
        assert torch.equal(others["model"].weight, parts["model"].weight)
    (tmp_path / "previous.pt").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="every checkpoint is damaged"):
        loaded(tmp_path, parts)


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path):
    """The system refuses to write files of more than 20 kB, as a full disk would."""
    parts = trained()
    save_checkpoint(tmp_path, 1, parts)
    larger = {"model": nn.Linear(100, 100), "optimizer": parts["optimizer"]}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        with pytest.raises(OSError, match=r"state\.pt: the checkpoint of step 2 cannot be written .* is intact: m"):
            save_checkpoint(tmp_path, 2, larger)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert loaded(tmp_path, trained()).step == 1 and [path.name for path in tmp_path.iterdir()] == ["state.pt"]


class Exploit:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    torch.save({"step": 1, "parts": {"model": Exploit(tmp_path / "ran")}}, tmp_path / "state.pt")
    with pytest.raises(Exception, match=r"(?i)weights.only"):
        loaded(tmp_path, {"model": nn.Linear(4, 3)})
    assert not (tmp_path / "ran").exists()
