"""A whole distillation as a generator of events: prepare, train, evaluate, export.

The caller decides what becomes of each event. To stop is to stop iterating: closing the generator writes
a checkpoint, and a later call with the same folder goes on from it, to the same weights bit for bit.
"""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Generator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distill import checkpoint, events, plan, randomness, students
from distill.errors import RunError
from distill.evaluation import Answers
from distill.headlines import HEADLINES
from distill.method_specs import CEMethod, MethodSpec
from distill.methods.srrl import SRRL
from distill.networks.binarisation import pack_bits
from distill.preparation import prepare
from distill.prepared import Prepared
from distill.published import published
from distill.registry import load_student
from distill.reporting import cost_figures
from distill.runs import Diverged, Material, Run
from distill.spec import DistillSpec
from distill.teacher_files import TeacherFile, open_teacher

_MAX_ROLLBACKS = 2
_LAYOUT = 3
"""Of what a checkpoint holds; a job that goes on under another version of this number starts anew."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The files of a run and the place to run in."""

    teacher: TeacherFile
    dataset_path: Path
    start_path: Path | None = None
    """The weights that ``student.init`` names; None: random ones."""
    workdir: Path
    """Holds checkpoints and finished files; kept between attempts."""
    device: str = "auto"
    recorded_step: int = 0
    """How far an earlier attempt's metrics have surely been taken; later ones are yielded again after a resume."""


def train(spec: DistillSpec, inputs: Inputs) -> Generator[events.Event]:
    """Distil; see the module.

    Args:
        spec: resolved by :func:`distill.plan.resolve`.
        inputs: files and place.

    Yields:
        Events in the order in which they happen; an Artifact's file stays until the caller removes it.

    Raises:
        RunError: ``teacher_below_chance``, ``loss_diverged``, ``out_of_memory``, ``storage_full``.
        InputError: teacher or data cannot be used.
    """
    yield events.Phase(phase="preparing")
    prepared = yield from prepare(
        spec,
        teacher=inputs.teacher,
        dataset_path=inputs.dataset_path,
        start_path=inputs.start_path,
        device=inputs.device,
    )
    yield from _Job(spec, inputs, prepared).run()


class _Job:
    """The runs of one job and what stands between them."""

    def __init__(self, spec: DistillSpec, inputs: Inputs, prepared: Prepared) -> None:
        self.spec = prepared.resolve(spec)
        self.prepared = prepared
        self.inputs = inputs
        self.checkpoints = inputs.workdir / "checkpoints"
        self.out = inputs.workdir / "out"
        shutil.rmtree(self.out, ignore_errors=True)  # of an attempt that is over
        self.out.mkdir(parents=True)
        self.num_files = 0
        methods: dict[events.RunName, tuple[MethodSpec, Material]] = {"student": (self.spec.method, prepared.material)}
        labelled = prepared.material.labelled()
        if plan.has_baseline(spec) and labelled is not None:
            methods["baseline"] = (CEMethod(type="ce"), labelled)
        self.total_steps = sum(material.total_steps for _, material in methods.values())
        self.runs: dict[events.RunName, Run] = {}
        first_step = 0
        for name, (method, material) in methods.items():
            self.runs[name] = self._new_run(name, method, material, first_step=first_step)
            first_step += material.total_steps
        self.rollbacks = 0
        self.history: list[events.Metric] = []
        self.written: int | None = None
        """Step of the newest checkpoint."""
        self.safe = 0
        """Step of the newest one after a whole epoch: a run that diverges goes back to it, stopped meanwhile or not."""

    def _new_run(self, name: events.RunName, method: MethodSpec, material: Material, *, first_step: int) -> Run:
        # The same seed for each: student and baseline start from the same weights.
        randomness.seed(self.spec.training.seed)
        network = self.prepared.student(self.spec)
        return Run(
            name,
            network=network,
            objective=self.prepared.objective(method, network),
            material=material,
            first_step=first_step,
            total_steps=self.total_steps,
        )

    def run(self) -> Generator[events.Event]:
        yield from self._resume()
        for run in self.runs.values():
            if run.judged < self.prepared.material.epochs:
                yield events.Phase(phase="training", run=run.name)
                try:
                    yield from self._fit(run)
                except GeneratorExit:
                    if self.written == run.step:
                        raise
                    with contextlib.suppress(OSError):  # nobody hears of it any more; an earlier checkpoint serves
                        self._save(run)
                    raise
        yield events.Phase(phase="exporting")
        try:
            # Again, though the last epoch did: whether that event was heard is not known after a resume.
            files = {name: self._publish(run) for name, run in self.runs.items()}
            connector = self._connector_file()
        except OSError as error:
            raise RunError(
                "storage_full",
                f"The finished student could not be written: {error}.",
                hint="The operator frees room on the worker's disk; then submit the job again.",
            ) from error
        yield from connector
        yield events.Phase(phase="evaluating")
        report = yield from self._report({name: Path(file.path) for name, file in files.items()})
        yield from files.values()
        yield events.Report(report=report)
        yield events.Finished(step=self.total_steps)

    def _resume(self) -> Generator[events.Event]:
        state, refused = checkpoint.load_latest(self.checkpoints)
        for reason in refused:
            yield events.Log(level="warning", message=f"Checkpoint passed over: {reason}.")
        if state is not None and state.get("layout") != _LAYOUT:
            yield events.Log(
                level="warning", message="Checkpoint passed over: another version wrote it. The job starts anew."
            )
        elif state is not None:
            self._restore(state)
            yield events.Resumed(step=state["step"])
            yield from (m for m in self.history if m.step >= self.inputs.recorded_step)

    def _fit(self, run: Run) -> Generator[events.Event]:
        if self.written is None:
            yield from self._saved(run)  # a run that diverges in its first epoch goes back to here
        while run.judged < self.prepared.material.epochs:
            try:
                if run.judged == run.epoch:  # else a stop came between an epoch and what is said of it
                    for event in run.train_epoch():
                        yield self._noted(event)
                yield from self._judge(run)
            except Diverged as diverged:
                yield self._roll_back(run, diverged)
                continue
            run.judged = run.epoch
            self.safe = run.step
            # Last, so that a crash before it repeats the epoch and loses none of what it says.
            yield from self._saved(run)
            if self.written == run.step:
                yield events.Checkpoint(step=run.step, epoch=run.epoch, run=run.name)

    def _judge(self, run: Run) -> Generator[events.Event]:
        """Evaluate the student after an epoch, and hand it out if it is the best so far, or the last."""
        run.check_weights()
        score = yield from self._evaluate(run)
        if score is None:
            return
        task = self.prepared.task
        values = {f"{run.prefix}val/{task.headline}": score}
        yield self._noted(events.Metric(step=run.step, epoch=run.epoch, values=values))
        goodness = HEADLINES[task.headline].goodness(score)
        if goodness >= run.best:
            run.best, run.best_step = goodness, run.step
        elif run.epoch < self.prepared.material.epochs:
            return
        try:
            yield self._publish(run)
        except OSError as error:
            yield events.Degraded(reason=f"The student of step {run.step} could not be written: {error}.")

    def _noted(self, event: events.Event) -> events.Event:
        # With the checkpoint: what was said just before a crash may never have been heard.
        if isinstance(event, events.Metric) and self.history[-1:] != [event]:  # after a stop it is said again
            self.history.append(event)
        return event

    def _evaluate(self, run: Run) -> Generator[events.Event, None, float | None]:
        """The task's headline after an epoch, if this is one after which it is taken.

        Always after the first and the last; between them whenever as many images were trained on as are
        evaluated, so that looking costs at most a third of what training does.

        Raises:
            Diverged: it is not finite; what is said of it would be no JSON.
        """
        material = run.material
        every = math.ceil(len(material.test_images_NCHW) / len(material.images_NCHW))
        if run.epoch not in (1, material.epochs) and run.epoch % every:
            return None
        score = self.prepared.task.score((yield from run.evaluate()))
        if not math.isfinite(score):
            raise run.diverged("An answer", "was not finite")
        return score

    def _roll_back(self, run: Run, diverged: Diverged) -> events.Log:
        self.rollbacks += 1
        state, _ = checkpoint.load_latest(self.checkpoints, up_to=self.safe)
        if self.rollbacks > _MAX_ROLLBACKS or state is None:
            raise diverged
        scale = run.rate_scale * 0.5
        self._restore(state)
        run.rate_scale = scale
        message = f"{diverged.message} Back to step {run.step} with {run.rate_scale:g} of the learning rate."
        return events.Log(level="warning", message=message)

    # ------------------------------------------------------------ files

    def _saved(self, run: Run) -> Generator[events.Degraded]:
        """Write a checkpoint; without room for it training goes on, and a restart would begin at the one before."""
        try:
            self._save(run)
        except OSError as error:
            since = "from the start" if self.written is None else f"from step {self.written}"
            yield events.Degraded(
                reason=f"No checkpoint could be written at step {run.step}: {error}. "
                f"Training goes on; a restart would repeat everything {since}."
            )

    def _save(self, run: Run) -> None:
        # A stop may come between a bad loss and the end of its window; the earlier checkpoint is then the one.
        if not run.is_sound:
            return
        state = {
            "layout": _LAYOUT,
            "step": run.step,
            "safe": self.safe,
            "rollbacks": self.rollbacks,
            "history": [asdict(metric) for metric in self.history],
            "runs": {name: each.state() for name, each in self.runs.items()},
            "random": randomness.state(),
        }
        kept = {self.safe, *(each.best_step for each in self.runs.values())}
        checkpoint.save(self.checkpoints, state, step=run.step, also_keep=kept)
        self.written = run.step

    def _restore(self, state: dict[str, Any]) -> None:
        for name, run in self.runs.items():
            run.restore(state["runs"][name])
        self.rollbacks = max(self.rollbacks, state["rollbacks"])
        self.history = [events.Metric(**metric) for metric in state["history"]]
        self.written, self.safe = state["step"], state["safe"]
        randomness.restore(state["random"])  # last: whatever came before may have drawn

    def _publish(self, run: Run) -> events.Artifact:
        """The student as it is, under a name that no later one takes."""
        self.num_files += 1
        path = self.out / f"{run.name}-{self.num_files}.safetensors"
        head = run.objective.result_head
        if head is None:
            state = pack_bits(run.network, run.network.state_dict())
        else:
            state = pack_bits(run.network, students.state_with_head(run.network, head=head), prefix="network.")
        students.save(state, path, metadata=self._metadata(run))
        return events.Artifact(name=f"{run.name}.safetensors", path=str(path))

    def _method_name(self) -> str:
        """``srrl``, or ``srrl + kd`` where methods are combined."""
        method = self.spec.method
        extra = [] if isinstance(method, CEMethod) else method.extra
        return " + ".join([method.type, *(term.type for term in extra)])

    def _metadata(self, run: Run) -> dict[str, Any]:
        prepared = self.prepared
        metadata: dict[str, Any] = {
            "architecture": self.spec.student.name,
            "options": self.spec.student.options.model_dump(mode="json"),
            "num_classes": str(prepared.num_outputs),
            "in_channels": str(prepared.in_channels),
            "image_size": list(prepared.student_shape[1:]),
            "classes": prepared.classes,
            "task": prepared.task_name,
            "mean": prepared.mean,
            "std": prepared.std,
            "head": _head_name(run),
            "method": self._method_name() if run.name == "student" else "ce",
            "epoch": str(run.epoch),
        }
        head = run.objective.result_head
        if head is not None:
            metadata["connector"] = head.facts
        return metadata

    # ------------------------------------------------------------ result

    def _report(self, files: dict[events.RunName, Path]) -> Generator[events.Event, None, dict[str, Any]]:
        """Every network's figures; costs are measured on the very files that are handed out."""
        prepared, task = self.prepared, self.prepared.task
        teacher = self.inputs.teacher
        found: dict[events.RunName, Answers] = {}
        for name, run in self.runs.items():
            found[name] = yield from run.evaluate()
        report: dict[str, Any] = {
            "head": _head_name(self.runs["student"]),
            "method": self._method_name(),
            "task": prepared.task_name,
            "classes": prepared.classes,
            "images": {
                "train": len(prepared.material.images_NCHW),
                "test": len(prepared.material.test_images_NCHW),
            },
            "teacher": {
                **task.figures(prepared.teacher_answers),
                **cost_figures(
                    open_teacher(teacher)[0],
                    image_shape=prepared.teacher_shape,
                    num_bytes=teacher.path.stat().st_size,
                ),
            },
            "baseline": None,
            "published": published(self.spec, teacher=teacher.architecture, num_classes=prepared.num_outputs),
            "disagreements": task.disagreements(found["student"]),
        }
        for name, path in files.items():
            report[name] = {
                **task.figures(found[name]),
                **cost_figures(load_student(path), image_shape=prepared.student_shape, num_bytes=path.stat().st_size),
                **task.likeness(found[name]),
            }
        return report

    def _connector_file(self) -> list[events.Artifact]:
        """SRRL's connectors, where they are asked for."""
        path = self.out / "connector.safetensors"
        for method in self.runs["student"].objective.methods:
            if isinstance(method, SRRL) and "connector" in self.spec.outputs:
                students.save(method.state_dict(), path, metadata={"connectors": method.facts()})
                return [events.Artifact(name=path.name, path=str(path))]
        return []


def _head_name(run: Run) -> str:
    return "own" if run.objective.result_head is None else "teacher"
