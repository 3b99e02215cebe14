"""The first dashboard: what runs, whether it learns, how fast, what waits and what went wrong."""

from monitoring.panels import MEMORY_LINES, RATE, Row, heat, lines, stat, table, word

RUNNING = 'on (instance, job_id) (appliance_job_state{state="running"} == 1)'


def running(metric: str) -> str:
    """A family of the job that runs now."""
    return f"appliance_job_{metric} and {RUNNING}"


STAGE_SECONDS = "sum by (le, stage) (increase(appliance_job_stage_duration_seconds_bucket[$__range]))"
WAITED = "sum by (le) (increase(appliance_job_queue_wait_seconds_bucket[$__range]))"
DELAY = f"sum by (le) (rate(appliance_inbox_detection_delay_seconds_bucket[{RATE}]))"

OVERVIEW = (
    Row(
        "Now",
        (
            word("Running job", running("info"), "The job that a stage works on.", "name", width=6, must=True),
            stat(
                "Progress",
                f"appliance_job_step / appliance_job_planned_steps and {RUNNING}",
                "Optimizer steps done, of those planned.",
                "percentunit",
                must=True,
                defaults={"min": 0, "max": 1},
            ),
            stat("Time left", running("eta_seconds"), "From the measured rate of this run.", "s", must=True),
            stat(
                "Tokens per second",
                running("tokens_per_second"),
                "Content tokens over the last steps; padding does not count.",
                "short",
                must=True,
            ),
            stat("Training loss", running("train_loss"), "Of the last step, in nats per token.", must=True, width=3),
            stat("Held-out loss", running("eval_loss"), "The last one, in nats per token.", width=3),
            lines(
                "Memory and the floor",
                "Memory in use. At the first line a training saves and stops, at the second it is killed.",
                "bytes",
                *MEMORY_LINES,
                width=12,
                must=True,
                from_zero=True,
            ),
            lines("GPU power", "What the GPU draws.", "watt", ("appliance_gpu_power_watts", "GPU {{gpu}}"), width=6),
            lines(
                "GPU temperature",
                "Of the chip.",
                "celsius",
                ("appliance_gpu_temperature_celsius", "GPU {{gpu}}"),
                width=6,
            ),
            lines(
                "Queue",
                "Jobs that have not ended, by state.",
                "short",
                ('sum by (state) (appliance_jobs{state=~"queued|running"})', "{{state}}"),
                must=True,
                width=12,
                from_zero=True,
            ),
            table(
                "Firing alerts",
                'ALERTS{alertstate="firing"}',
                "What Prometheus finds wrong right now. The rules say what to do.",
                width=12,
            ),
        ),
    ),
    Row(
        "Learning",
        (
            lines(
                "Loss",
                "Training loss and held-out loss, in nats per token.",
                "short",
                ("appliance_job_train_loss", "job {{job_id}}, training"),
                ("appliance_job_eval_loss", "job {{job_id}}, held out"),
                must=True,
                width=12,
            ),
            lines(
                "Learning rate",
                "Of the last step.",
                "sci",
                ("appliance_job_learning_rate", "job {{job_id}}"),
                must=True,
                width=6,
            ),
            lines("Gradient norm", "Before clipping.", "short", ("appliance_job_grad_norm", "job {{job_id}}"), width=6),
        ),
    ),
    Row(
        "Throughput",
        (
            lines(
                "Tokens",
                "Tokens put through the model a second, with and without meaning.",
                "short",
                (f"sum by (kind) (rate(appliance_train_tokens_total[{RATE}]))", "{{kind}}"),
                must=True,
                from_zero=True,
                custom={"stacking": {"mode": "normal", "group": "A"}, "fillOpacity": 25},
            ),
            heat(
                "Step time",
                "How long optimizer steps took.",
                "s",
                f"sum by (le) (increase(appliance_train_step_duration_seconds_bucket[{RATE}]))",
                must=True,
            ),
            lines(
                "Use of the GPU's peak (MFU)",
                "Model FLOP/s over APPLIANCE_GPU_PEAK_TFLOPS; nothing while that is unset.",
                "percentunit",
                ("appliance_job_mfu_ratio", "job {{job_id}}"),
                width=4,
                from_zero=True,
            ),
            lines(
                "Tokens per joule",
                "Content tokens for the GPU's energy.",
                "short",
                (
                    f'sum(rate(appliance_train_tokens_total{{kind="content"}}[{RATE}]))'
                    f" / sum(rate(appliance_gpu_energy_joules_total[{RATE}]))",
                    "tokens per joule",
                ),
                width=4,
            ),
        ),
    ),
    Row(
        "Queue and failures",
        (
            lines(
                "Ended jobs",
                "In the time shown, by how they ended.",
                "short",
                ("sum by (outcome) (increase(appliance_jobs_finished_total[$__range]))", "{{outcome}}"),
                must=True,
                width=6,
                from_zero=True,
            ),
            lines(
                "Waiting",
                "Why jobs wait.",
                "short",
                ('sum by (reason) (appliance_waiting{reason!="none"})', "{{reason}}"),
                must=True,
                width=6,
                from_zero=True,
            ),
            lines(
                "Failures and retries",
                "In the time shown, by class.",
                "short",
                ("sum by (reason) (increase(appliance_job_failures_total[$__range])) > 0", "failed: {{reason}}"),
                ("sum by (reason) (increase(appliance_job_retries_total[$__range])) > 0", "again: {{reason}}"),
                width=6,
                from_zero=True,
            ),
            lines(
                "Time per stage",
                "The ninth of ten, in the time shown.",
                "s",
                (f"histogram_quantile(0.9, {STAGE_SECONDS})", "{{stage}}"),
                must=True,
                width=6,
                from_zero=True,
            ),
            lines(
                "Verdicts",
                "Of finished trainings, in the time shown.",
                "short",
                ("sum by (verdict) (increase(appliance_verdicts_total[$__range]))", "{{verdict}}"),
                must=True,
                width=12,
                from_zero=True,
            ),
            lines(
                "Wait for the first stage",
                "From taking a drop in to its first stage: the ninth of ten, in the time shown.",
                "s",
                (
                    f"histogram_quantile(0.9, {WAITED})",
                    "waited",
                ),
                width=12,
                from_zero=True,
            ),
        ),
    ),
    Row(
        "Inbox and Hub",
        (
            lines(
                "Pending drops",
                "By what they wait for.",
                "short",
                ("sum by (state) (appliance_inbox_pending)", "{{state}}"),
                must=True,
                width=6,
                from_zero=True,
            ),
            lines(
                "From the last write to a verdict on the drop",
                "The ninth of ten.",
                "s",
                (f"histogram_quantile(0.9, {DELAY})", "delay"),
                width=6,
                from_zero=True,
            ),
            lines(
                "Drops",
                "In the time shown, by what became of them, and why some were rejected.",
                "short",
                ("sum by (outcome) (increase(appliance_inbox_drops_total[$__range]))", "{{outcome}}"),
                ("sum by (reason) (increase(appliance_inbox_rejections_total[$__range])) > 0", "rejected: {{reason}}"),
                must=True,
                width=6,
                from_zero=True,
            ),
            lines(
                "Hub",
                "Results that wait to be pushed, and attempts by result in the time shown.",
                "short",
                ("appliance_hub_pushes_pending", "pending"),
                ("sum by (outcome) (increase(appliance_hub_pushes_total[$__range])) > 0", "{{outcome}}"),
                ("sum by (result) (increase(appliance_hub_push_attempts_total[$__range])) > 0", "attempt: {{result}}"),
                must=True,
                width=6,
                from_zero=True,
            ),
        ),
    ),
)
