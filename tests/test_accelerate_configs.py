"""configs/accelerate: Accelerate parses every file and its launch command, and takes from it what its head says."""

import shlex
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType
from accelerate.utils.launch import prepare_multi_gpu_env, prepare_simple_launcher_cmd_env

from foundation.config import parse_config
from scripts.train_ldm import LdmConfig

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "configs/accelerate").glob("*.yaml"))
PLACEHOLDERS = {"k": "1", "ADDRESS": "192.0.2.1"}


def launch_command(path: Path) -> list[str]:
    """The arguments of `accelerate launch` in a file's head, where `...` stands for the script's other options."""
    head = [line.removeprefix("# ") for line in path.read_text().splitlines() if line.startswith("#")]
    first = next(index for index, line in enumerate(head) if line.startswith("accelerate launch "))
    last = next(index for index in range(first, len(head)) if not head[index].endswith("\\"))
    command = " ".join(line.removesuffix("\\").strip() for line in head[first : last + 1])
    assert command.endswith(" ...")
    words = shlex.split(command.removeprefix("accelerate launch ").removesuffix(" ..."))
    return [PLACEHOLDERS.get(word, word) for word in words]


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def path(request, monkeypatch):
    monkeypatch.chdir(ROOT)
    for name in ("OMP_NUM_THREADS", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    return request.param


@pytest.fixture
def launched(path):
    """What `accelerate launch` makes of the command in the file's head."""
    return _validate_launch_command(launch_command_parser().parse_args(launch_command(path)))[0]


def test_there_is_a_file_for_one_gpu_several_gpus_and_several_nodes():
    assert [path.stem for path in FILES] == ["multi_gpu", "multi_node", "single_gpu"]


def test_accelerate_loads_the_file_and_knows_every_key(path):
    config = load_config_from_file(str(path))  # an unknown key raises
    single = path.stem == "single_gpu"
    assert config.distributed_type == (DistributedType.NO if single else DistributedType.MULTI_GPU)
    assert config.mixed_precision == "bf16" and not config.use_cpu
    assert config.num_processes % config.num_machines == 0


def test_the_command_in_the_head_names_its_own_file_and_a_script_that_takes_its_options(launched, path, tmp_path):
    assert ROOT / launched.config_file == path
    assert launched.training_script == "scripts/train_ldm.py" and (ROOT / launched.training_script).is_file()
    others = ["--data", str(tmp_path), "--vae", str(tmp_path), "--out", str(tmp_path / "run")]
    config = parse_config(LdmConfig, [*launched.training_script_args, *others])
    assert config.mixed_precision == load_config_from_file(str(path)).mixed_precision  # the script's counts


def test_the_launcher_takes_processes_machines_and_precision_from_the_file(launched, path):
    config = load_config_from_file(str(path))
    assert launched.num_processes == config.num_processes and launched.num_machines == config.num_machines
    assert launched.multi_gpu == path.stem.startswith("multi") and not launched.use_fsdp
    if path.stem == "single_gpu":
        command, environment = prepare_simple_launcher_cmd_env(launched)
        assert command[1] == "scripts/train_ldm.py"
    else:
        environment = prepare_multi_gpu_env(launched)
        assert int(launched.nproc_per_node) == config.num_processes // config.num_machines == 8
    assert environment["ACCELERATE_MIXED_PRECISION"] == config.mixed_precision
    assert environment["OMP_NUM_THREADS"] == "1"  # foundation.device.use_all_cores shares the cores instead


def test_a_machine_of_several_gets_its_number_and_the_first_ones_address(monkeypatch):
    monkeypatch.chdir(ROOT)
    words = launch_command(ROOT / "configs/accelerate/multi_node.yaml")
    launched = _validate_launch_command(launch_command_parser().parse_args(words))[0]
    prepare_multi_gpu_env(launched)
    assert (launched.nnodes, launched.node_rank) == ("2", 1)
    assert (launched.rdzv_backend, launched.rdzv_endpoint) == ("static", "192.0.2.1:29500")
