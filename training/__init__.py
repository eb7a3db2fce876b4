"""What every training script shares.

- config: fields of every training; run: the run folder, Accelerate, averages, checkpoints, time limit, logs
- model_card, data_record: what a saved model and its data are; sharing: the push to the Hub
- draws: stateless randomness; data: torch datasets; checkpoint: a run's state on disk; curves: their picture
"""
