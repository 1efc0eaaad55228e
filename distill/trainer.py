"""A whole distillation as a generator of events: prepare, train, evaluate, export.

The caller decides what becomes of each event. To stop is to stop iterating: closing the generator writes
a checkpoint, and a later call with the same folder goes on from it, to the same weights bit for bit.
"""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Generator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from distill import checkpoint, events, plan, students
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
_LAYOUT = 2
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
        RunError: ``teacher_below_chance``, ``loss_diverged``.
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

    def _new_run(self, name: events.RunName, method: MethodSpec, material: Material, *, first_step: int) -> Run:
        # The same seed for each: student and baseline start from the same weights.
        torch.manual_seed(self.spec.training.seed)
        random.seed(self.spec.training.seed)
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
            if run.epoch < self.prepared.material.epochs:
                yield events.Phase(phase="training", run=run.name)
                try:
                    yield from self._fit(run)
                except GeneratorExit:
                    self._save(run)
                    raise
        yield events.Phase(phase="exporting")
        # Again, though the last epoch did: whether that event was heard is not known after a resume.
        files = {name: self._publish(run) for name, run in self.runs.items()}
        yield from self._connector_file()
        yield events.Phase(phase="evaluating")
        report = self._report({name: Path(file.path) for name, file in files.items()})
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
            self._save(run)  # a run that diverges in its first epoch goes back to here
        epochs = self.prepared.material.epochs
        while run.epoch < epochs:
            try:
                for event in run.train_epoch():
                    yield self._noted(event)
                score = self._evaluate(run)
            except Diverged as diverged:
                yield self._roll_back(run, diverged)
                continue
            if score is not None:
                task = self.prepared.task
                values = {f"{run.prefix}val/{task.headline}": score}
                yield self._noted(events.Metric(step=run.step, epoch=run.epoch, values=values))
                goodness = HEADLINES[task.headline].goodness(score)
                if goodness >= run.best or run.epoch == epochs:
                    run.best = max(run.best, goodness)
                    yield self._publish(run)
            # Last, so that a crash before it repeats the epoch and loses none of what it says.
            self._save(run)
            yield events.Checkpoint(step=run.step, epoch=run.epoch, run=run.name)

    def _noted(self, event: events.Event) -> events.Event:
        # With the checkpoint: what was said just before a crash may never have been heard.
        if isinstance(event, events.Metric):
            self.history.append(event)
        return event

    def _evaluate(self, run: Run) -> float | None:
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
        score = self.prepared.task.score(run.evaluate())
        if not math.isfinite(score):
            raise run.diverged("An answer")
        return score

    def _roll_back(self, run: Run, diverged: Diverged) -> events.Log:
        self.rollbacks += 1
        state, _ = checkpoint.load_latest(self.checkpoints)
        if self.rollbacks > _MAX_ROLLBACKS or state is None:
            raise diverged
        scale = run.rate_scale * 0.5
        self._restore(state)
        run.rate_scale = scale
        message = f"{diverged.message} Back to step {run.step} with {run.rate_scale:g} of the learning rate."
        return events.Log(level="warning", message=message)

    # ------------------------------------------------------------ files

    def _save(self, run: Run) -> None:
        # A stop may come between a bad loss and the end of its window; the earlier checkpoint is then the one.
        if self.written == run.step or not run.is_sound:
            return
        state = {
            "layout": _LAYOUT,
            "step": run.step,
            "rollbacks": self.rollbacks,
            "history": [asdict(metric) for metric in self.history],
            "runs": {name: each.state() for name, each in self.runs.items()},
            "random": torch.get_rng_state(),
        }
        if torch.cuda.is_available():
            state["random_cuda"] = torch.cuda.get_rng_state_all()
        checkpoint.save(self.checkpoints, state, step=run.step)
        self.written = run.step

    def _restore(self, state: dict[str, Any]) -> None:
        for name, run in self.runs.items():
            run.restore(state["runs"][name])
        self.rollbacks = max(self.rollbacks, state["rollbacks"])
        self.history = [events.Metric(**metric) for metric in state["history"]]
        self.written = state["step"]
        if torch.cuda.is_available() and "random_cuda" in state:
            torch.cuda.set_rng_state_all(state["random_cuda"])
        torch.set_rng_state(state["random"])

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

    def _report(self, files: dict[events.RunName, Path]) -> dict[str, Any]:
        """Every network's figures; costs are measured on the very files that are handed out."""
        prepared, task = self.prepared, self.prepared.task
        teacher = self.inputs.teacher
        found = {name: run.evaluate() for name, run in self.runs.items()}
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

    def _connector_file(self) -> Generator[events.Event]:
        if "connector" not in self.spec.outputs:
            return
        for method in self.runs["student"].objective.methods:
            if isinstance(method, SRRL):
                path = self.out / "connector.safetensors"
                students.save(method.state_dict(), path, metadata={"connectors": method.facts()})
                yield events.Artifact(name=path.name, path=str(path))


def _head_name(run: Run) -> str:
    return "own" if run.objective.result_head is None else "teacher"
