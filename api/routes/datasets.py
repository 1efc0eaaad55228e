"""Data sets: images, with labels or without."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import Response, StreamingResponse

from api.dataset_schemas import DatasetSchema, SkippedSchema
from api.deps import MAX_INT, Accept, After, IfNoneMatch, InputId, PageSize, etag_matches, json_answer
from api.schemas import DatasetRequest, Listing
from models import Dataset
from service import data_overview, inputs, presets, remote

router = APIRouter(prefix="/datasets", tags=["inputs"])

_MAX_SKIPPED = 1000
_ROWS = 500
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_CSV: dict[str, Any] = {"content": {"text/csv": {"schema": {"type": "string"}}}}
_SHEET: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"image/webp": {"schema": {"type": "string", "format": "binary"}}},
        "description": "The sheet; ETag is its SHA-256.",
    },
    304: {"description": "The sheet is that of the given ETag."},
}


@router.post(
    "",
    status_code=202,
    response_model=DatasetSchema,
    responses={200: {"model": DatasetSchema, "description": "A preset that was registered before."}},
)
def create_dataset(body: DatasetRequest) -> Response:
    """Register uploaded images, a preset or a URL; the structure of what is here is checked at once, every image by a
    worker, which also fetches the URL."""
    is_new = True
    if body.preset is not None:
        row, is_new = presets.create_dataset(body.preset, format=body.format, max_broken_share=body.max_broken_share)
    elif body.url is not None:
        row = remote.create_dataset(
            body.url, sha256=body.sha256, format=body.format, max_broken_share=body.max_broken_share
        )
    else:
        row = inputs.create_dataset(body.upload_id or "", format=body.format, max_broken_share=body.max_broken_share)
    headers = {"Location": f"/datasets/{row.id}"}
    return json_answer(DatasetSchema.of(row), status=202 if is_new else 200, headers=headers)


@router.get("")
def list_datasets(limit: PageSize = 20, after: After = None) -> Listing[DatasetSchema]:
    """Data sets, newest first."""
    rows, has_more = inputs.listing(Dataset, limit=limit, after=after)
    return Listing[DatasetSchema].of([DatasetSchema.of(r) for r in rows if isinstance(r, Dataset)], has_more=has_more)


@router.get("/{dataset_id}")
def get_dataset(dataset_id: InputId) -> DatasetSchema:
    """One data set, with what the checks found."""
    return DatasetSchema.of(_find(dataset_id))


@router.get("/{dataset_id}/preview", response_class=Response, responses=_SHEET)
def get_preview(dataset_id: InputId, if_none_match: IfNoneMatch = None) -> Response:
    """Some images of each class on one sheet, train and test, as they are trained on; landmarks are drawn in."""
    sheet = data_overview.preview(_find(dataset_id))
    headers = {"ETag": f'"{sheet.sha256}"', "Cache-Control": "private, max-age=3600"}
    if etag_matches(if_none_match, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(sheet.content, media_type=sheet.content_type, headers=headers)


@router.get("/{dataset_id}/skipped", response_model=Listing[SkippedSchema], responses={200: _CSV})
def list_skipped(
    dataset_id: InputId,
    limit: Annotated[int, Query(ge=1, le=_MAX_SKIPPED, description="At most so many; CSV has all.")] = 100,
    after: Annotated[int, Query(ge=0, le=MAX_INT, description="Go on behind this number.")] = 0,
    accept: Accept = "",
) -> Response:
    """Every file that was left out, with the reason, in pages, or under `Accept: text/csv` all behind `after`."""
    row = _find(dataset_id)
    if "text/csv" in accept:
        lines = _as_csv(data_overview.skipped(row, after=after))
        return StreamingResponse(lines, media_type="text/csv; charset=utf-8; header=present")
    page = list(data_overview.skipped(row, after=after, limit=limit + 1))
    items = [SkippedSchema(id=str(number), **line) for number, line in enumerate(page[:limit], after + 1)]
    return json_answer(Listing[SkippedSchema].of(items, has_more=len(page) > limit))


@router.delete("/{dataset_id}", status_code=204)
def delete_dataset(dataset_id: InputId) -> None:
    """Remove a data set that no job refers to."""
    inputs.delete(Dataset, dataset_id)


def _find(dataset_id: str) -> Dataset:
    row = inputs.get(Dataset, dataset_id)
    assert isinstance(row, Dataset)
    return row


def _as_csv(lines: Iterator[dict[str, str]]) -> Iterator[str]:
    yield _table([["path", "reason"]])
    while some := list(islice(lines, _ROWS)):
        yield _table([[_inert(line["path"]), _inert(line["reason"])] for line in some])


def _table(rows: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _inert(cell: str) -> str:
    """A name that a spreadsheet would take for a formula, made text by the apostrophe that they have for it."""
    return f"'{cell}" if cell.startswith(_FORMULA) else cell
