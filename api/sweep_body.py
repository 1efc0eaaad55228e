"""From the body of POST /distill/sweep to the requests of its jobs, each read as POST /distill would read it."""

from __future__ import annotations

from pydantic import ValidationError

from api.problems import Flaw
from api.validation import flaws_of
from distill.errors import DistillError, InputError
from distill.spec import DistillSpec
from service.sweep_spec import Candidate, SweepSpec, expand
from service.sweeps import MAX_ERRORS, Child, distinct


def read_children(sweep: SweepSpec) -> tuple[list[Child], list[DistillError]]:
    """The valid jobs of a sweep, and what is wrong with the others, each thing once.

    Raises:
        service.errors.Invalid: the axes do not fit each other.
    """
    children: list[Child] = []
    wrong: list[DistillError] = []
    for candidate in expand(sweep):
        if isinstance(candidate, InputError):
            wrong = distinct([*wrong, candidate])
            continue
        try:
            children.append(Child(candidate=candidate, spec=DistillSpec.model_validate(candidate.body)))
        except ValidationError as error:
            wrong = distinct([*wrong, *_told(candidate, error)])
        if len(wrong) > MAX_ERRORS:
            break
    return children, wrong


def _told(candidate: Candidate, error: ValidationError) -> list[DistillError]:
    found = [{**each, "loc": ("body", *each["loc"])} for each in error.errors(include_url=False, include_input=False)]
    return [candidate.blame(_error(flaw)) for flaw in flaws_of(found, model=DistillSpec)]


def _error(flaw: Flaw) -> InputError:
    return InputError(flaw.code, flaw.detail, hint=flaw.hint, param=flaw.pointer, did_you_mean=flaw.did_you_mean)
