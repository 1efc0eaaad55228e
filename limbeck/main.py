"""The `limbeck` command."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from limbeck.client import Client
from limbeck.console import console, say, show_error, show_json, transfer
from limbeck.errors import ApiError, CommandError, LimbeckError, Unreachable
from limbeck.results import Job

FAILED, REFUSED, UNREACHABLE, INTERRUPTED = 1, 2, 3, 130


class _Commands(TyperGroup):
    """Every command's errors as a message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except LimbeckError as error:
            show_error(error)
            raise typer.Exit(exit_code(error)) from error
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None


def exit_code(error: LimbeckError) -> int:
    """2: the request is to blame; 3: the service is; 1: neither, or what it gave is broken."""
    if isinstance(error, CommandError):
        return error.exit_code
    if isinstance(error, Unreachable) or (isinstance(error, ApiError) and error.status >= 500):
        return UNREACHABLE
    return REFUSED if isinstance(error, ApiError) or hasattr(error, "flaw") else FAILED


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Distillation as a service: a trained vision network in, a small one out, with the evidence that it is good.",
    epilog="Exit codes: 0 ok, 1 the job failed, 2 refused or wrong usage, 3 no service, 130 Ctrl-C.",
)

Url = Annotated[str | None, typer.Option("--url", envvar="LIMBECK_URL", help="Where the service answers.")]
AsJson = Annotated[bool, typer.Option("--json", help="Answer with JSON on stdout.")]
DataDir = Annotated[Path | None, typer.Option(help="Where everything is kept; else LIMBECK_DATA_DIR.")]
Lifeline = Annotated[bool, typer.Option(hidden=True, help="Stop when stdin ends.")]


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="A loopback address.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="0 takes a free one.")] = None,
    data_dir: DataDir = None,
    lifeline: Lifeline = False,
) -> None:
    """Run the whole service on this machine: API, broker and one worker. Ctrl-C stops it."""
    from limbeck.children import hold_lifeline
    from limbeck.serve import serve as run
    from service.settings import settings

    if lifeline:
        hold_lifeline(grace=settings().stop_grace_seconds + 15.0)
    run(host=host, port=port, data_dir=data_dir)


@app.command()
def work(data_dir: DataDir = None, lifeline: Lifeline = False) -> None:
    """Run one worker; beside a running service by its data folder, or by LIMBECK_BROKER_URL."""
    from limbeck.children import hold_lifeline
    from service.broker import BrokerError, EmbeddedBroker
    from service.settings import settings
    from worker.app import start_worker

    if data_dir:
        os.environ["LIMBECK_DATA_DIR"] = str(data_dir.expanduser().resolve())
        settings.cache_clear()
    if lifeline:
        hold_lifeline(grace=settings().stop_grace_seconds + 10.0)
    with contextlib.ExitStack() as stack:
        if not settings().broker_url:
            try:
                broker = stack.enter_context(EmbeddedBroker(settings().data_dir))
            except BrokerError as error:
                raise CommandError(str(error), exit_code=1) from error
            os.environ["LIMBECK_BROKER_URL"] = broker.url
            settings.cache_clear()
        start_worker()


@app.command()
def demo(
    example: Annotated[
        Path | None, typer.Option(help="A request file with local files, in place of the shipped one.")
    ] = None,
) -> None:
    """Distil the shipped teacher on the shipped images, from nothing to a measured student."""
    from limbeck.demo import EXAMPLE
    from limbeck.demo import demo as run

    raise typer.Exit(run(out=console(), example=example or EXAMPLE))


@app.command()
def submit(
    file: Annotated[Path | None, typer.Argument(help="JSON: the body of POST /distill.", show_default=False)] = None,
    teacher: Annotated[
        Path | None, typer.Option(help="Safetensors, ONNX, a folder as zip, or .pth if allowed.")
    ] = None,
    teacher_architecture: Annotated[
        str | None, typer.Option(help="A name of GET /networks; a folder says it itself.")
    ] = None,
    teacher_width: Annotated[float | None, typer.Option(help="Multiplies its channels.")] = None,
    teacher_stem_stride: Annotated[int | None, typer.Option(min=1, max=2)] = None,
    teacher_classes: Annotated[
        Path | None, typer.Option(help="Text file: a class name a line, in the order of its outputs.")
    ] = None,
    teacher_mean: Annotated[str | None, typer.Option(help="Of its images in 0..1, such as 0.485,0.456,0.406.")] = None,
    teacher_std: Annotated[str | None, typer.Option(help="The same; both or neither.")] = None,
    teacher_channels: Annotated[str | None, typer.Option(help="rgb, or bgr as OpenCV reads images.")] = None,
    data: Annotated[Path | None, typer.Option(help="A file of docs/datasets.md: NPZ, zip, tar or Parquet.")] = None,
    data_format: Annotated[
        str | None, typer.Option(help="auto, or a format of docs/datasets.md, such as imagefolder.")
    ] = None,
    student: Annotated[str | None, typer.Option(help="A name of GET /networks.")] = None,
    student_width: Annotated[float | None, typer.Option(help="Multiplies its channels.")] = None,
    student_stem_stride: Annotated[int | None, typer.Option(min=1, max=2)] = None,
    method: Annotated[
        str | None, typer.Option(help="One of docs/methods.md, such as srrl, kd or dkd; ce: labels alone.")
    ] = None,
    head: Annotated[str | None, typer.Option(help="own or teacher: what classifies in the result.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1)] = None,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    baseline: Annotated[bool | None, typer.Option(help="Also train the student on labels alone.")] = None,
    name: Annotated[str | None, typer.Option(help="For the list of jobs.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check, and show the plan.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the job to its end.")] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Submit a job, from a file, from flags, or from a file with flags that overrule it."""
    from limbeck.flags import Flags, apply, numbers
    from limbeck.submit import Request, read_request, send

    request = apply(
        Flags(
            teacher=teacher,
            teacher_architecture=teacher_architecture,
            teacher_options={"width": teacher_width, "stem_stride": teacher_stem_stride},
            teacher_classes=teacher_classes,
            teacher_preprocessing={
                "mean": numbers(teacher_mean),
                "std": numbers(teacher_std),
                "channels": teacher_channels,
            },
            data=data,
            data_format=data_format,
            student=student,
            student_options={"width": student_width, "stem_stride": student_stem_stride},
            method=method,
            head=head,
            training={"epochs": epochs, "seed": seed, "baseline": baseline},
            name=name,
        ),
        read_request(file) if file else Request(body={}),
    )
    out = console(as_json=as_json)
    with Client(url) as client:
        job = send(client, request, out=out, dry_run=dry_run)
        if watch and not dry_run:
            say(out, f"job {job['id']}")
            _follow(client, job["id"], as_json=as_json)
        elif as_json or dry_run:
            show_json(job)
        else:
            say(out, f"job {job['id']} is {job['status']}; follow it with: limbeck watch {job['id']}")


@app.command()
def upload(
    file: Annotated[Path, typer.Argument(help="A teacher's weights or a data set.", show_default=False)],
    purpose: Annotated[
        str | None, typer.Option(help="teacher, dataset or student_init; else told by the file's name.")
    ] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Send a file, going on where an earlier try broke off; its id is for POST /teachers, /datasets or /distill."""
    from limbeck.submit import purpose_of

    meant = purpose_of(file, purpose)
    out = console(as_json=as_json)
    with Client(url) as client, transfer(out, f"sending {file.name}") as on_progress:
        sent = client.upload(file, purpose=meant, on_progress=on_progress)
    if as_json:
        show_json(sent)
    else:
        say(out, f"{sent['id']}: {meant} {file.name}, {sent['bytes']:,} bytes, sha256 {sent['sha256']}")


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(help="JSON: the body of POST /distill/sweep.", show_default=False)],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check, and count jobs and steps.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the jobs to their end, then show the table.")] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Submit a job for every combination of methods, settings and seeds in a file, to compare them."""
    from limbeck.sweep import read_sweep, send_sweep

    out = console(as_json=as_json)
    with Client(url) as client:
        made = send_sweep(client, read_sweep(file), out=out, dry_run=dry_run)
        if watch and not dry_run:
            say(out, f"sweep {made['id']} has {made['num_jobs']} jobs")
            _follow_sweep(client, made["id"], as_json=as_json)
        elif as_json or dry_run:
            show_json(made)
        else:
            say(out, f"sweep {made['id']} has {made['num_jobs']} jobs; follow them with: limbeck watch {made['id']}")


@app.command()
def watch(id: str, url: Url = None, as_json: AsJson = False) -> None:
    """Follow a job or a sweep to its end; Ctrl-C leaves it running."""
    with Client(url) as client:
        (_follow_sweep if id.startswith("sw_") else _follow)(client, id, as_json=as_json)


@app.command()
def get(
    job: str,
    artifact: Annotated[str, typer.Argument()] = "student.safetensors",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="A file, or a folder that is there.")] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Download an artifact, going on where an earlier try broke off, and check its hash."""
    path = output or Path(artifact)
    if path.is_dir():
        path /= Path(artifact).name
    out = console(as_json=as_json)
    with Client(url) as client, transfer(out, artifact) as on_progress:
        digest = client.download(job, artifact, path=path, on_progress=on_progress)
    if as_json:
        show_json({"path": str(path), "bytes": path.stat().st_size, "sha256": digest})
    else:
        say(out, f"{path}: {path.stat().st_size:,} bytes, sha256 {digest}")


@app.command()
def migrate(data_dir: DataDir = None) -> None:
    """Bring the database to this version's tables."""
    from service import database
    from service.settings import settings

    if data_dir:
        os.environ["LIMBECK_DATA_DIR"] = str(data_dir.expanduser().resolve())
        settings.cache_clear()
    database.migrate()


@app.command()
def openapi() -> None:
    """Print the API's schema, as committed in openapi.json."""
    from api.app import create_app

    typer.echo(json.dumps(create_app().openapi(), indent=1, ensure_ascii=False))


def _follow(client: Client, job_id: str, *, as_json: bool) -> None:
    from limbeck.report import conclusion, report_table
    from limbeck.watch import outcome, watch

    out = console(as_json=as_json)
    try:
        job: Job = watch(client, job_id, out=out)
    except KeyboardInterrupt:
        say(out, f"\nthe job goes on; limbeck watch {job_id} comes back to it")
        raise
    if as_json:
        show_json(job)
    elif job["status"] != "succeeded":
        say(out, outcome(job), style="yellow" if job["status"] == "cancelled" else "red")
    else:
        report = client.report(job_id)
        out.print(report_table(report))
        say(out, conclusion(report))
        say(out, f"fetch the student with: limbeck get {job_id}")
    if job["status"] != "succeeded":
        raise typer.Exit(FAILED)


def _follow_sweep(client: Client, sweep_id: str, *, as_json: bool) -> None:
    from limbeck.sweep import sweep_table, watch_sweep

    out = console(as_json=as_json)
    try:
        ended = watch_sweep(client, sweep_id, out=out)
    except KeyboardInterrupt:
        say(out, f"\nthe jobs go on; limbeck watch {sweep_id} comes back to them")
        raise
    if as_json:
        show_json(ended)
    else:
        out.print(sweep_table(ended))
    if ended["status"] != "succeeded":
        raise typer.Exit(FAILED)
