"""Pages of the site that are not written by hand: the reference of every room, the notebooks, CONTRIBUTING.md."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
ROOMS = ("foundation", "imaging", "autoencoder", "diffusion", "guidance", "evaluation", "training")


@event_priority(100)  # before mkdocs-jupyter looks for notebooks
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made here."""
    for room in ROOMS:
        files.append(File.generated(config, f"reference/{room}.md", content=reference(room)))
    files.append(File.generated(config, "reference/command_lines.md", content=command_lines()))
    files.append(File.generated(config, "contributing.md", abs_src_path=str(ROOT / "CONTRIBUTING.md")))
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        name = f"notebooks/{notebook.name}"
        folder = ROOT / "build" if (ROOT / "build" / name).is_file() else ROOT  # executed, or as it is committed
        files.append(File(name, str(folder), config.site_dir, config.use_directory_urls))
    return files


def reference(room: str) -> str:
    """The package's docstring, which says what is in which module, and every module below it."""
    paths = sorted(path.relative_to(ROOT) for path in (ROOT / room).rglob("*.py"))
    names = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in paths]
    heads = {path.parent: path for path in paths if path.name == "__init__.py"}
    lines = [f"# {room}", ""]
    for path, name in zip(paths, names, strict=True):
        only = "    options: {members: []}\n" if path in heads.values() else ""
        lines.append(f"::: {name}\n{only}")
    return "\n".join(lines)


def command_lines() -> str:
    """Every script: what it does, its command, and the fields of its config, which are its options."""
    lines = [
        "# Command lines",
        "",
        "`uv run scripts/NAME.py`, or `lesion-diffusion NAME` with dashes where the package is installed. Every field "
        "of a config is an option: `--out-dir` and `--out_dir` are the same, `--model.channels 16,32` sets one of a "
        "group; `--config FILE.yaml` reads many, and later values win. `--help` prints what stands here.",
        "",
        "Scripts that paint lesions have the fields of "
        "[`SamplingConfig`][diffusion.sampling.loading.SamplingConfig] as well, `inpaint_nodules` has those of "
        "[`SyntheticSetConfig`][evaluation.lesions.synthetic_set_config.SyntheticSetConfig], "
        "`inpaint` has those of [`InpaintConfig`][evaluation.inpainting.config.InpaintConfig], "
        "`run_baselines` has those of [`BaselinesConfig`][evaluation.baselines.config.BaselinesConfig], "
        "and scripts that train have those of [`TrainingConfig`][training.config.TrainingConfig].",
        "",
    ]
    for path in sorted((ROOT / "scripts").glob("*.py")):
        lines += [f"::: scripts.{path.stem}", "    options: {members: [" + ", ".join(configs(path)) + "]}", ""]
    return "\n".join(lines)


def configs(script: Path) -> list[str]:
    """Names of the script's config classes."""
    lines = script.read_text().splitlines()
    return [line[6:].split("(")[0].strip(":") for line in lines if line.startswith("class ") and "Config" in line]
