"""The config fields of every training script; imports no torch."""

from dataclasses import dataclass

from foundation.config import ExistingFolder, MixedPrecision, OutputFolder, Seed


@dataclass(frozen=True)
class TrainingConfig:
    """Fields of every training run.

    Attributes:
        data: The prepared dataset (train_vae) or the encoded one (train_ldm, train_classifier).
        out: Run folder: config, checkpoint, logs, pictures and, at the end, the model. The same command continues it.
        seed: Seed of all randomness; a run is a function of its config.
        steps: Number of optimisation steps.
        batch_size: Samples per process and batch.
        gradient_accumulation_steps: Batches per process and step, for a larger batch than the memory holds: their
            gradients are averaged. A step sees batch_size x gradient_accumulation_steps x processes samples.
        learning_rate: Peak of the schedule.
        warmup_steps: Steps over which the learning rate rises linearly.
        weight_decay: Weight decay of AdamW.
        max_grad_norm: Gradients are clipped to this norm.
        ema_decay: Highest decay of the averaged weights, which are the ones that are saved.
        mixed_precision: Type that autocast computes in; "no" is float32.
        workers: Loader processes; 0 loads in the main process.
        threads: CPU threads; null takes the default of `foundation.threads`.
        log_every: Steps between log lines.
        evaluate_every: Steps between evaluations with pictures.
        checkpoint_every: Steps between checkpoints; `kill -9` loses at most these.
        max_minutes: Stop cleanly after this time; the same command continues.
        stop_at: Finish the run at this step, with the model that it has; null finishes after `steps`. The learning rate
            follows the schedule of `steps`. Given to an interrupted run, it saves the averaged weights of the last
            checkpoint, if that is at this step or later.
        budget_minutes: Total training time over all continuations, without evaluations and checkpoints. When it is
            spent, the run is finished with the steps that it has.
        cpu_clock: Whether the budget is CPU time of this process (not of its loader processes), and not the time on the
            clock: for a CPU that other work shares.
        push_to_hub: Repository "OWNER/NAME" on the Hugging Face Hub to push the finished model to, with its card; null
            pushes nothing. The access token is `HF_TOKEN` or that of `hf auth login`.
        hub_private: Make that repository private, and refuse a public one.
    """

    data: ExistingFolder
    out: OutputFolder
    seed: Seed = 0
    steps: int = 10_000
    batch_size: int = 4
    gradient_accumulation_steps: int = 1
    learning_rate: float = 3e-4
    warmup_steps: int = 100
    weight_decay: float = 1e-4
    max_grad_norm: float = 1.0
    ema_decay: float = 0.999
    mixed_precision: MixedPrecision = "no"
    workers: int = 0
    threads: int | None = None
    log_every: int = 20
    evaluate_every: int = 500
    checkpoint_every: int = 200
    max_minutes: float | None = None
    stop_at: int | None = None
    budget_minutes: float | None = None
    cpu_clock: bool = False
    push_to_hub: str | None = None
    hub_private: bool = True
