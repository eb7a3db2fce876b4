"""What ends a script before its heavy imports: help, a mistake, a missing input."""

import ast
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from forked import expect, start

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(path.stem for path in (ROOT / "scripts").glob("*.py"))
HEAVY = {"accelerate", "datasets", "diffusers", "matplotlib", "pandas", "scipy", "SimpleITK", "skimage", "torch"}
PROGRAM = """
import json, os, runpy, sys
import foundation.config  # as every script does first; the processes that run them are forked from this one
heavy = set(json.loads(sys.argv[1]))
for line in sys.stdin:
    script, *sys.argv[1:], out = json.loads(line)
    if not (child := os.fork()):
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()
for stream, name in ((1, "out"), (2, "err")):
    os.dup2(os.open(f"{out}.{name}", os.O_WRONLY | os.O_CREAT), stream)
sys.argv[0] = script
try:
    runpy.run_path(script, run_name="__main__")
finally:
    print(json.dumps(sorted(heavy & sys.modules.keys())))
"""
WITHOUT_INPUT = {"demo", "plot_time_weights"}
MISSING = {  # the last option names what is not there
    "encode_latents": "--vae owner/name --out out --data data/nowhere",
    "evaluate": "--real . --out out --synthetic ours=.,theirs=data/nowhere",
    "evaluate_downstream": "--data . --out out --synthetic [.,nowhere]",
    "evaluate_guidance": "--data . --judge . --out out --pipeline runs/ldm/nowhere",
    "evaluate_vae": "--data . --out out --vae kl=owner/name,vq=./nowhere",
    "export_layout": "--layout nnunet --out out --synthetic nowhere",
    "inpaint": "--pipeline owner/name --out out --center 1,2,3 --diameter-mm 9 --ct nowhere.nii.gz",
    "inpaint_nodules": "--data . --out out --pipeline runs/ldm/nowhere",
    "measure_balance": "--out out.csv --nodules nowhere",
    "measure_real_lesions": "--out out.safetensors --data nowhere",
    "prepare_lidc": "--out out --scans . --merge [.,nowhere]",
    "prepare_nodules": "--out out --scans nowhere",
    "prepare_scans": "--out out --scans nowhere",
    "prepare_shapes": "--nodules . --out out --data nowhere",
    "push_to_hub": "--repo owner/name --pipeline runs/nowhere",
    "reading_study": "prepare --synthetic . --out out --real nowhere",
    "reconstruct_scan": "--vae owner/name --out out --ct nowhere",
    "run_baselines": "--budget-minutes 1 --out out --data nowhere",
    "serve_autoencoder": "--model /no/where",
    "serve_page": "--pipeline /no/where",
    "ship_pipeline": "--out out --pipeline runs/ldm/nowhere",
    "synthesize": "--lesions 3 --out out --no-nodules-known true --scans nowhere",
    "train_classifier": "--data . --out out --pipeline runs/ldm/nowhere",
    "train_judge": "--out out --data nowhere",
    "train_ldm": "--vae owner/name --out out --data nowhere",
    "train_nodule_net": "--out out.safetensors --dataset nowhere",
    "train_pig": "--out out --data nowhere",
    "train_translation": "--other . --out out --data nowhere",
    "train_vae": "--data . --out out --scans nowhere",
    "translate": "--model owner/name --to a --out out --ct nowhere.nii.gz",
    "virtual_trial": "--out out --detector a:b --scans nowhere",
}


class Ended(NamedTuple):
    """A script's end: status, the two streams, and which heavy modules it had imported."""

    status: int
    out: str
    err: str
    imported: list[str]


@pytest.fixture(scope="module")
def interpreter() -> Iterator[subprocess.Popen]:
    """One that has imported nothing heavy."""
    command = [sys.executable, "-c", PROGRAM, json.dumps(sorted(HEAVY))]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.stdin.close()


@pytest.fixture
def run(interpreter, tmp_path) -> Callable[..., Ended]:
    """scripts/<script>.py in a process of its own."""

    def run(script: str, *argv: str) -> Ended:
        print(json.dumps([f"scripts/{script}.py", *argv, str(tmp_path / "log")]), file=interpreter.stdin, flush=True)
        status = int(interpreter.stdout.readline())
        *out, imported = (tmp_path / "log.out").read_text().splitlines()
        return Ended(status, "\n".join(out), (tmp_path / "log.err").read_text(), json.loads(imported))

    return run


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_tells_what_a_script_does_and_imports_nothing_heavy(run, script):
    ended = run(script, "--help")
    purpose = ast.get_docstring(ast.parse((ROOT / "scripts" / f"{script}.py").read_text())).splitlines()[0]
    assert ended.status == 0 and ended.err == ""
    assert " ".join(purpose.split()) in " ".join(ended.out.split())
    assert ended.imported == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_wrong_option_is_refused_in_one_line_and_nothing_heavy_is_imported(run, script):
    ended = run(script, "--no-such-option", "1")
    assert ended.status == 2 and len(ended.err.splitlines()) == 1
    assert ended.err.startswith("error: unknown option --no_such_option; known: ")
    assert ended.imported == []


@pytest.mark.parametrize("script", MISSING)
def test_a_missing_input_is_refused_in_one_line_and_nothing_heavy_is_imported(run, script):
    *_, option, value = argv = MISSING[script].split()
    ended = run(script, *argv)
    missing = value.strip("[]").split(",")[-1].split("=")[-1]
    assert ended.status == 1 and len(ended.err.splitlines()) == 1
    assert ended.err.startswith(f"error: {option} {missing}: no such f") and "check the spelling" in ended.err
    assert ended.imported == []


@pytest.mark.parametrize(
    ("script", "argv"),
    [
        ("demo", ""),
        ("inpaint", "--ct . --site auto --diameter-mm 9"),
        ("inpaint_nodules", "--data ."),
        ("synthesize", "--scans . --lesions 3 --no-nodules-known true"),
        ("train_classifier", "--data . --pipeline a/b"),
        ("train_judge", "--data ."),
        ("train_ldm", "--data . --vae a/b"),
        ("train_vae", "--data ."),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_in_one_line_and_nothing_heavy_is_imported(
    run, script, argv, tmp_path
):
    (tmp_path / "file").touch()
    ended = run(script, *argv.split(), "--out", str(tmp_path / "file/below"))
    assert ended.status == 1 and len(ended.err.splitlines()) == 1
    assert ended.err.startswith(f"error: --out {tmp_path}/file/below: lies below {tmp_path}/file, which is no folder")
    assert ended.imported == []


def test_every_script_looks_whether_its_output_can_be_written():
    for script in SCRIPTS:
        assert "\n    out: Path" not in (ROOT / f"scripts/{script}.py").read_text(), script


@pytest.mark.parametrize("folder", ["scripts", "benchmarks"])
def test_no_script_is_imported_as_a_library(folder):
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            named = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            named += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not {name.split(".")[0] for name in named} & {"scripts", *SCRIPTS}, path


def test_every_script_with_an_input_looks_for_it():
    assert set(MISSING) | WITHOUT_INPUT == set(SCRIPTS) and not set(MISSING) & WITHOUT_INPUT


@pytest.mark.parametrize(
    ("script", "argv", "sentence"),
    [
        (
            "evaluate_guidance",
            "--data . --judge . --pipeline a/b --out out --requests [colour]",
            "requests colour: expected some of malignancy, spiculation",
        ),
        ("inpaint", "--ct . --pipeline a/b --out out --center 1,2,3", "give either --mask, or --center z,y,x together"),
        ("inpaint", "--ct . --out out --site auto --diameter-mm .nan", "--diameter-mm nan, expected a number"),
        ("inpaint", "--ct . --out out --site auto --diameter-mm 0", "--diameter-mm 0, expected a number of mm above 0"),
        ("inpaint", "--ct . --out out --center [.nan,1,2] --diameter-mm 9", "--center nan,1.0,2.0, expected a voxel"),
        ("inpaint", "--ct . --out out --site auto --diameter-mm 9 --seed -1", "--seed -1, expected a whole number"),
        (
            "inpaint",
            "--ct . --out out --site auto --diameter-mm 9 --cfg-scale -3",
            "cfg_scale -3.0, expected at least 0",
        ),
        (
            "inpaint_nodules",
            "--data . --pipeline a/b --out out --samples 0",
            "samples 0, batch_size 8, lesions None",
        ),
        ("prepare_lidc", "--out out", "nothing to read; pass --scans"),
        ("prepare_scans", "--scans . --out out --spacing-mm 0", "spacing_mm 0.0: expected a positive number"),
        ("run_baselines", "--data . --out out --budget-minutes 0", "budget_minutes 0.0: expected a time above 0"),
        ("serve_autoencoder", "--model a/b --max-queue 0", "max_queue 0, expected at least 1"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_one_line_and_nothing_heavy_is_imported(run, script, argv, sentence):
    ended = run(script, *argv.split())
    assert ended.status == 1 and len(ended.err.splitlines()) == 1
    assert ended.err.startswith(f"error: {sentence}") and ended.imported == []


def test_an_imported_script_reads_no_command_line_and_no_file_is_imported_twice(tmp_path):
    program = f"""
import json, sys
from pathlib import Path
sys.path.append("{ROOT}")
from scripts import demo, inpaint, train_classifier, train_ldm, train_vae
files = [m.__file__ for m in sys.modules.values() if str(getattr(m, "__file__", None)).startswith("{ROOT}/")]
ours = [file for file in files if ".venv" not in file]
arguments = [module.ARGUMENTS for module in (demo, train_vae, train_ldm, inpaint, train_classifier)]
print(json.dumps([arguments, len(ours), len(set(ours)), "diffusion.unet" in sys.modules]))
"""
    script, log = tmp_path / "script.py", tmp_path / "log"
    script.write_text(program)
    expect(start(script, ["--no-such-option"], log), log)
    arguments, files, different, network_is_imported = json.loads(log.read_text())
    assert arguments == [None] * 5 and files == different > 30 and network_is_imported
