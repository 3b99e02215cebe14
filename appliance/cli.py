"""The command line. Each command imports what it needs when it runs, so that `--help` answers at once."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from appliance.commands.leaving import leave_hanging_behind
from appliance.commands.unexpected import refused, report
from appliance.errors import ApplianceError

app = typer.Typer(
    name="appliance",
    help="A fine-tuning appliance: a file goes in, a QLoRA adapter comes out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
JobName = Annotated[str, typer.Argument(metavar="JOB", help="A job's number or id, for example 7 or 0007-support.")]
Files = Annotated[list[Path], typer.Argument(metavar="PATH...", help="A dataset, a recipe, or both.")]


@app.command()
def serve(
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Serve an inbox that another appliance claimed.")
    ] = False,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Make a new database from the last backup and the job folders first.")
    ] = False,
) -> None:
    """Watch the inbox and work until stopped.

    Example: appliance serve
    """
    from appliance.commands.serve import serve as run

    run(take_over=take_over, rebuild=rebuild)


@app.command()
def demo(keep: Annotated[Path | None, typer.Option(help="Keep the demo's folders here.")] = None) -> None:
    """Go from inbox to outbox with a tiny model, offline.

    Example: appliance demo
    """
    from appliance.commands.demo import demo as run

    run(keep)


@app.command()
def check(paths: Files, json: Json = False) -> None:
    """Check a dataset, a recipe, or both, without training.

    Example: appliance check support.jsonl support.yaml
    """
    from appliance.commands.check import check as run

    run(paths, as_json=json)


@app.command()
def plan(
    recipe: Annotated[Path, typer.Argument(help="The recipe to plan: a file, or the name of one of the library.")],
    dataset: Annotated[Path | None, typer.Argument(help="The dataset to plan it with.")] = None,
    memory: Annotated[str | None, typer.Option(help="Plan for this much memory, for example 128GB.")] = None,
    json: Json = False,
) -> None:
    """Say what a recipe needs: memory, steps, time.

    Example: appliance plan recipes/default.yaml --memory 128GB
    """
    from appliance.commands.plan import plan as run

    run(recipe, dataset, memory, as_json=json)


@app.command()
def submit(
    paths: Files,
    recipe: Annotated[str | None, typer.Option(help="A library recipe by name, for example default.")] = None,
) -> None:
    """Put files into the inbox.

    Example: appliance submit support.jsonl --recipe default
    """
    from appliance.commands.submit import submit as run

    run(paths, recipe)


@app.command()
def jobs(json: Json = False) -> None:
    """List the jobs, newest first.

    Example: appliance jobs
    """
    from appliance.commands.jobs import jobs as run

    run(as_json=json)


@app.command()
def show(job: JobName, json: Json = False) -> None:
    """Show one job: state, history, result.

    Example: appliance show 7
    """
    from appliance.commands.jobs import show as run

    run(job, as_json=json)


@app.command()
def logs(
    job: JobName, follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on as more is written.")] = False
) -> None:
    """Print what the stages of a job printed.

    Example: appliance logs 7 -f
    """
    from appliance.commands.logs import logs as run

    run(job, follow=follow)


@app.command()
def cancel(job: JobName) -> None:
    """Stop a job; its files come back.

    Example: appliance cancel 7
    """
    from appliance.commands.ask import cancel as run

    run(job)


@app.command()
def push(job: JobName) -> None:
    """Push a result to the Hub now, whatever its verdict.

    Example: appliance push 7
    """
    from appliance.commands.ask import push as run

    run(job)


@app.command()
def approve(job: JobName) -> None:
    """Let a job start that takes longer than APPLIANCE_MAX_JOB_HOURS.

    Example: appliance approve 7
    """
    from appliance.commands.ask import approve as run

    run(job)


@app.command()
def retry(
    job: JobName,
    recipe: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|NAME", help="Another recipe for the same rows: a file, or a library recipe by name."
        ),
    ] = None,
) -> None:
    """Run an ended job again, as a new job.

    Example: appliance retry 7 --recipe other.yaml
    """
    from appliance.commands.retry import retry as run

    run(job, recipe)


@app.command()
def delete(
    job: JobName,
    hub: Annotated[bool, typer.Option("--hub", help="Also what was pushed to the Hub.")] = False,
) -> None:
    """Remove every trace of an ended job, and say what remains.

    Example: appliance delete 7
    """
    from appliance.commands.delete import delete as run

    run(job, hub=hub)


@app.command()
def pause() -> None:
    """Start no more trainings until `resume`.

    Example: appliance pause
    """
    from appliance.commands.ask import queue as run

    run("pause")


@app.command()
def resume() -> None:
    """Start trainings again.

    Example: appliance resume
    """
    from appliance.commands.ask import queue as run

    run("resume")


@app.command()
def doctor(json: Json = False) -> None:
    """Look whether this machine is ready: GPU, memory, disk, folders, tokens, versions.

    Example: appliance doctor
    """
    from appliance.commands.doctor import doctor as run

    run(as_json=json)


models = typer.Typer(no_args_is_help=True, help="The base models on this machine: list, fetch, import, remove.")
app.add_typer(models, name="models")
ModelId = Annotated[str, typer.Argument(metavar="ID", help="A Hub id, for example Qwen/Qwen3-8B.")]


@models.command("list")
def models_list(json: Json = False) -> None:
    """List them with their size, the least recently used first.

    Example: appliance models list
    """
    from appliance.commands.models import list_models as run

    run(as_json=json)


@models.command("fetch")
def models_fetch(
    model: ModelId,
    revision: Annotated[str | None, typer.Option(help="A commit or tag; pins that very repository.")] = None,
    in_16_bits: Annotated[bool, typer.Option("--in-16-bits", help="Not the mirror that is stored in 4 bits.")] = False,
) -> None:
    """Fetch a model before a job needs it, in 4 bits where it can be trained so.

    Example: appliance models fetch Qwen/Qwen3-8B
    """
    from appliance.commands.models import fetch_model as run

    run(model, revision, in_16_bits=in_16_bits)


@models.command("import")
def models_import(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A model's directory, for example on a USB disk.")],
    name: Annotated[str | None, typer.Option(help="Its Hub id, where the directory is not called ORG--NAME.")] = None,
) -> None:
    """Copy a model into the models folder, without a network.

    Example: appliance models import /media/usb/Qwen--Qwen3-8B
    """
    from appliance.commands.models import import_from as run

    run(folder, name)


@models.command("remove")
def models_remove(model: ModelId) -> None:
    """Take a model off the disk.

    Example: appliance models remove Qwen/Qwen3-8B
    """
    from appliance.commands.models import remove as run

    run(model)


@app.command()
def version(json: Json = False) -> None:
    """Print the version.

    Example: appliance version
    """
    from appliance.commands.version import version as run

    run(as_json=json)


def main() -> None:
    """Run the command line. A person's mistake ends with a sentence and the contract's exit code, never a traceback."""
    try:
        app(standalone_mode=True)
    except ApplianceError as error:
        print(error.message, file=sys.stderr)
        if error.hint:
            print(error.hint, file=sys.stderr)
        leave_hanging_behind(error.exit_code)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # Whoever read our output has seen enough.
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        sys.exit(refused(error) or report(error))
    except Exception as error:  # noqa: BLE001 (the outermost boundary: the traceback is kept for a report)
        sys.exit(report(error))
