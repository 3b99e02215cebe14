"""The dashboard of one job, chosen by its number."""

from monitoring.panels import DATASOURCE, Row, lines, since, stat, word


def of_job(metric: str) -> str:
    """A family of the job that was chosen."""
    return f'appliance_job_{metric}{{job_id="$job_id"}}'


JOB = (
    Row(
        "This job",
        (
            word("Job", of_job("info"), "Its name.", "name", width=6, must=True),
            word("Base model", of_job("info"), "What it is trained on.", "base_model", width=6, must=True),
            word("State", f"{of_job('state')} == 1", "The state that it is in.", "state", must=True),
            stat(
                "Progress",
                f"{of_job('step')} / {of_job('planned_steps')}",
                "Optimizer steps done, of those planned.",
                "percentunit",
                must=True,
                defaults={"min": 0, "max": 1},
            ),
            stat("Time left", of_job("eta_seconds"), "From the measured rate of this run.", "s", must=True),
            stat("Epoch", of_job("epoch"), "Passes over the training rows.", must=True, defaults={"decimals": 2}),
            since("Since it began", of_job("start_timestamp_seconds"), "Since its first stage began.", must=True),
            since(
                "Since its last progress",
                of_job("last_progress_timestamp_seconds"),
                "Any stage; a training reports at least every micro-batch.",
                must=True,
            ),
            since(
                "Since its last checkpoint", of_job("last_checkpoint_timestamp_seconds"), "What a crash would cost now."
            ),
            stat(
                "Losses that were no number",
                of_job("nonfinite_losses_total"),
                "Steps whose loss was not finite.",
                must=True,
            ),
            stat(
                "Attempt", of_job("info"), "At its present stage.", legend="{{attempt}}", options={"textMode": "name"}
            ),
        ),
    ),
    Row(
        "Learning",
        (
            lines(
                "Loss",
                "In nats per token.",
                "short",
                (of_job("train_loss"), "training"),
                (of_job("eval_loss"), "held out"),
                must=True,
                width=12,
                height=9,
            ),
            lines(
                "Learning rate",
                "Of the last step.",
                "sci",
                (of_job("learning_rate"), "learning rate"),
                must=True,
                width=6,
                height=9,
            ),
            lines("Gradient norm", "Before clipping.", "short", (of_job("grad_norm"), "norm"), width=6, height=9),
        ),
    ),
    Row(
        "Speed and memory",
        (
            lines(
                "Tokens per second",
                "Content tokens over the last steps; padding does not count.",
                "short",
                (of_job("tokens_per_second"), "tokens/s"),
                must=True,
                from_zero=True,
            ),
            lines(
                "Use of the GPU's peak (MFU)",
                "Nothing while APPLIANCE_GPU_PEAK_TFLOPS is unset.",
                "percentunit",
                (of_job("mfu_ratio"), "MFU"),
                from_zero=True,
            ),
            lines(
                "Memory",
                "What the training uses against what the plan expected.",
                "bytes",
                (of_job("memory_peak_bytes"), "process, highest"),
                (of_job("cuda_reserved_bytes"), "GPU, reserved"),
                (of_job("cuda_peak_reserved_bytes"), "GPU, reserved, highest"),
                (of_job("memory_estimate_bytes"), "planned"),
                must=True,
                from_zero=True,
            ),
        ),
    ),
)

CHOOSE_JOB = {
    "name": "job_id",
    "label": "Job",
    "type": "query",
    "datasource": DATASOURCE,
    "query": {"query": "label_values(appliance_job_info, job_id)", "refId": "job_id", "qryType": 1},
    "refresh": 2,
    "sort": 4,
    "multi": False,
    "includeAll": False,
    "hide": 0,
}
