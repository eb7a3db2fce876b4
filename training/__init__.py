"""What every training script shares.

- config: fields of every training; run: the run folder, Accelerate, averages, checkpoints, time limit, logs
- draws: stateless randomness; data: torch datasets; checkpoint: a run's state on disk; curves: their picture
"""
