"""Train the baselines and our method for equal time, and compare them in one table.

uv run scripts/run_baselines.py --budget-minutes 30 --data data/nodules --latents data/latents --vae runs/vae/model \\
    --out runs/baselines
A method is a config in configs/baselines. A config in a subfolder holds what differs from the method that the subfolder
is named after. `vae: identity` means that the method works on voxels, with the same code. Each method inpaints the test
masks. The same command continues an interrupted run. You can add --methods later. With `--task whole`, each method
makes whole crops from their semantic maps, and the tables are those of LSDM.
"""

from evaluation.baselines.config import BaselinesConfig
from foundation.config import launch, read_arguments

ARGUMENTS = read_arguments(BaselinesConfig, __name__)

from evaluation.baselines.methods import check_inputs, method_of, settings_of
from evaluation.baselines.pixels import pixel_folder, prepare_pixels
from evaluation.baselines.sets import claim_sampling, cost_of, inpaint, sampling_of
from evaluation.baselines.tables import lesion_table, whole_crop_tables
from foundation.atomic import write_atomically
from foundation.claimed_folder import claim_file
from foundation.document import to_markdown
from training.checkpoint import read_progress
from training.fixed_time import planned, train


def main(config: BaselinesConfig) -> None:
    """Measure every method's speed, train, inpaint, compare."""
    methods = {name: method_of(config, name) for name in config.chosen()}
    check_inputs(config, methods)
    if any(method.options["vae"] == pixel_folder(config) / "model" for method in methods.values()):
        prepare_pixels(config)
    for name, method in methods.items():
        claim_file(method.out / "method.json", settings_of(method), str(method.out))
        if (config.out / name / "sampling.json").exists():
            claim_sampling(config, name, sampling_of(config, method))
    runs = {name: method.with_options(planned(method.options)) for name, method in methods.items()}
    for number, (name, run) in enumerate(runs.items(), start=1):
        steps = run.options["steps"]
        print(f"{name}, {number} of {len(runs)}: {steps} steps in {config.budget_minutes:g} minutes", flush=True)
        train(run.options)
        inpaint(config, name, str(run.out / "pipeline"), sampling_of(config, run))
    costs = {name: cost_of(config, name, run, read_progress(run.out / "checkpoint")) for name, run in runs.items()}
    if config.task == "whole":
        file, blocks = config.out / "tables.md", whole_crop_tables(config, runs, costs)
    else:
        file, blocks = config.out / "table1.md", lesion_table(config, costs)
    table = to_markdown(blocks)
    write_atomically(file, lambda temporary: temporary.write_text(table))
    print(f"\n{table}\nwrote {file}")


if __name__ == "__main__":
    launch(main, ARGUMENTS)
