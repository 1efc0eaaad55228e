"""Teachers: trained weights under their architecture."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response

from api.deps import After, InputId, PageSize, json_answer
from api.schemas import Listing, TeacherRequest, TeacherSchema
from models import Teacher
from service import hub, inputs

router = APIRouter(prefix="/teachers", tags=["inputs"])


@router.post("", status_code=202, response_model=TeacherSchema)
def create_teacher(body: TeacherRequest) -> Response:
    """Register uploaded weights; names and shapes are compared at once, the values by a worker, which also fetches."""
    if body.hub is not None:
        row = hub.create_teacher(body.hub, revision=body.revision, traits=body.traits)
    else:
        row = inputs.create_teacher(body.upload_id or "", architecture=body.architecture, traits=body.traits)
    return json_answer(TeacherSchema.of(row), status=202, headers={"Location": f"/teachers/{row.id}"})


@router.get("")
def list_teachers(limit: PageSize = 20, after: After = None) -> Listing[TeacherSchema]:
    """Teachers, newest first."""
    rows, has_more = inputs.listing(Teacher, limit=limit, after=after)
    return Listing[TeacherSchema].of([TeacherSchema.of(r) for r in rows if isinstance(r, Teacher)], has_more=has_more)


@router.get("/{teacher_id}")
def get_teacher(teacher_id: InputId) -> TeacherSchema:
    """One teacher, with what the checks found."""
    row = inputs.get(Teacher, teacher_id)
    assert isinstance(row, Teacher)
    return TeacherSchema.of(row)


@router.delete("/{teacher_id}", status_code=204)
def delete_teacher(teacher_id: InputId) -> None:
    """Remove a teacher that no job refers to."""
    inputs.delete(Teacher, teacher_id)
