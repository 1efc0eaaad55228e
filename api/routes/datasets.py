"""Data sets: labelled images."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response

from api.deps import After, InputId, PageSize, json_answer
from api.schemas import DatasetRequest, DatasetSchema, Listing
from models import Dataset
from service import inputs

router = APIRouter(prefix="/datasets", tags=["inputs"])


@router.post("", status_code=202, response_model=DatasetSchema)
def create_dataset(body: DatasetRequest) -> Response:
    """Register uploaded images; the structure is checked at once, every image by a worker."""
    row = inputs.create_dataset(body.upload_id, format=body.format)
    return json_answer(DatasetSchema.of(row), status=202, headers={"Location": f"/datasets/{row.id}"})


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
