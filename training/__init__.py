"""What every training script shares.

- config: fields of every training
- run: the run folder, Accelerate, averaged weights, checkpoints, time limit, logs
- processes: what the processes of a training do together
- checkpoint: a run's state on disk; curves: its curves as a picture
- fixed_time: trainings with as many steps as a given time has room for
- data: torch datasets; scan_patches: unpaired patches of two kinds of CT; draws: stateless randomness
- model_card, data_record: the card of a saved model, and the record of its data
- sharing: the push to the Hub
"""
