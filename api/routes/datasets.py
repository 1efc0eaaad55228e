"""Data sets: images, with labels or without."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response

from api.deps import After, InputId, PageSize, json_answer
from api.schemas import DatasetRequest, DatasetSchema, Listing
from models import Dataset
from service import inputs, presets

router = APIRouter(prefix="/datasets", tags=["inputs"])


@router.post(
    "",
    status_code=202,
    response_model=DatasetSchema,
    responses={200: {"model": DatasetSchema, "description": "A preset that was registered before."}},
)
def create_dataset(body: DatasetRequest) -> Response:
    """Register uploaded images or a preset; the structure is checked at once, every image by a worker."""
    is_new = True
    if body.preset is not None:
        row, is_new = presets.create_dataset(body.preset, format=body.format, max_broken_share=body.max_broken_share)
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
    row = inputs.get(Dataset, dataset_id)
    assert isinstance(row, Dataset)
    return DatasetSchema.of(row)


@router.delete("/{dataset_id}", status_code=204)
def delete_dataset(dataset_id: InputId) -> None:
    """Remove a data set that no job refers to."""
    inputs.delete(Dataset, dataset_id)
