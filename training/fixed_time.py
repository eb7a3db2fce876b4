"""Trainings of scripts/train_ldm.py that have a fixed time: speed is measured, steps are planned, and they are run.

`options` are those of the script; `out` and `budget_minutes` are among them.
"""

import contextlib
import io
import json
import shutil
import time
from collections.abc import Mapping
from typing import Any, NoReturn

from foundation.atomic import recover, write_atomically
from foundation.command import run_script
from training.checkpoint import read_progress

PLANNED_SHARE = 0.95  # of the budget; the rest is for a machine that slows down, as at its end a run is cut off
LEAST_MEASURED_S, MOST_MEASURED_S = 5.0, 30.0
NEVER = 10**9  # steps


def planned(options: Mapping[str, Any]) -> dict[str, Any]:
    """Further options: as many steps as the budget has time for, so that the learning rate ends with the budget.

    Speed is measured once and kept: a continued run has the schedule it began with.
    """
    path, budget_minutes = options["out"] / "plan.json", options["budget_minutes"]
    if not path.exists():
        print(f"{options['out'].name}: measuring its speed ...", end=" ", flush=True)
        rate = steps_per_second(options)
        print(f"{rate:.3g} steps a second", flush=True)
        plan = {"steps_per_second": rate, "steps": max(1, int(PLANNED_SHARE * 60 * budget_minutes * rate))}
        write_atomically(path, lambda temporary: temporary.write_text(json.dumps(plan, indent=2)))
    plan = json.loads(path.read_text())
    a_minute = max(1, round(60 * plan["steps_per_second"]))
    return {"steps": plan["steps"], "evaluate_every": NEVER, "checkpoint_every": a_minute}


def steps_per_second(options: Mapping[str, Any]) -> float:
    """Speed of a training, measured over a twentieth of its budget, which is not charged for it."""
    seconds = min(max(60 * options["budget_minutes"] / 20, LEAST_MEASURED_S), MOST_MEASURED_S)
    out = options["out"] / "speed"
    shutil.rmtree(out, ignore_errors=True)
    trial = {**options, "out": out, "budget_minutes": None}
    trial |= dict.fromkeys(("steps", "evaluate_every", "checkpoint_every"), NEVER)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # a bar without an end
        run_script("train_ldm", trial | {"max_minutes": 0.0})  # the first step makes ready what the others find
        first = read_progress(out / "checkpoint")
        begun = time.monotonic()
        run_script("train_ldm", trial | {"max_minutes": seconds / 60})
        last = read_progress(out / "checkpoint")
    shutil.rmtree(out)
    if time.monotonic() - begun < seconds / 2:
        stop()
    return (last.step - first.step) / (last.seconds - first.seconds)


def train(options: Mapping[str, Any]) -> None:
    """Train to the end, or leave on a signal, after which the same command goes on."""
    pipeline = options["out"] / "pipeline"
    recover(pipeline)
    if not pipeline.exists():
        run_script("train_ldm", options)
    if not pipeline.exists():
        stop()


def stop() -> NoReturn:
    """End after a signal that a training has answered."""
    print("stopped; the same command goes on")
    raise SystemExit(0)
