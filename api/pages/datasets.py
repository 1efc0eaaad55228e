"""What a data set's page shows, ready for template and script alike."""

from __future__ import annotations

from typing import Any

from api.dataset_schemas import DatasetSchema
from api.pages import wording
from models import Dataset, InputStatus

_CHANNELS = {1: "grey", 3: "in colour"}
_OPEN_CLASSES = 20
"""More classes than these are folded."""


def dataset_page(row: Dataset) -> dict[str, Any]:
    """Everything on a data set's page; of one that is not ready only how it stands."""
    context = {"dataset": DatasetSchema.of(row), "title": row.filename or row.id, "state": dataset_state(row)}
    if row.status != InputStatus.READY:
        return {**context, "report": None}
    report = row.report
    return {
        **context,
        "report": report,
        "tiles": _tiles(report),
        "classes": _classes(report),
        "are_open": len(report["classes"]) <= _OPEN_CLASSES,
        "statistics": [
            ("Mean", ", ".join(map(wording.decimals, report["mean"]))),
            ("Standard deviation", ", ".join(map(wording.decimals, report["std"]))),
            *_originals(report.get("originals")),
            ("Packed form", wording.size(report["bytes"])),
            ("Its SHA-256", report["sha256"]),
            ("Ignored, of what systems leave behind", _ignored(report)),
        ],
        "duplicates": _duplicates(report),
        "num_more": report["skipped_count"] - len(report["skipped"]),
    }


def dataset_state(row: Dataset) -> dict[str, Any]:
    """What changes until it is ready."""
    return {
        "status": row.status,
        "is_terminal": row.status != InputStatus.PROCESSING,
        "sentence": sentence(row),
        "layout": [row.status],
    }


def sentence(row: Dataset) -> str:
    """How it stands, in one sentence."""
    if row.status == InputStatus.PROCESSING:
        return "Waiting until a worker has read every image"
    if row.status == InputStatus.ERROR:
        return f"It cannot be used: {(row.error or {}).get('message', 'no reason was recorded')}"
    splits, image = row.report["splits"], row.report["image"]
    num_train = splits["train"]["images"] + splits.get("train_unlabeled", {}).get("images", 0)
    channels = _CHANNELS.get(image["channels"], f"of {image['channels']} channels")
    size = f"{image['width']} × {image['height']} pixels, {channels}"
    return f"{num_train:,} images to train on and {splits['test']['images']:,} to test with, {size}"


def _originals(found: dict[str, Any] | None) -> list[tuple[str, str]]:
    if not found:
        return []
    sides = [f"{found[side]['min']:,} to {found[side]['max']:,}" for side in ("width", "height")]
    median = " × ".join(f"{found[side]['median']:,}" for side in ("width", "height"))
    modes = _counted(found["modes"])
    return [("The files' own pixels", f"{' × '.join(sides)}, median {median}"), ("Their modes", modes)]


def _ignored(report: dict[str, Any]) -> str:
    return ": ".join(filter(None, (wording.count(report["ignored"]), _counted(report.get("ignored_kinds", {})))))


def _counted(numbers: dict[str, int]) -> str:
    """Sorted, since the database keeps no order of keys."""
    return ", ".join(f"{name} {wording.count(number)}" for name, number in sorted(numbers.items()))


def _tiles(report: dict[str, Any]) -> list[tuple[str, str]]:
    splits = report["splits"]
    counts = [("Train", splits["train"]), ("Train, without labels", splits.get("train_unlabeled"))]
    counts.append(("Test", splits["test"]))
    tiles = [(name, wording.count(split["images"])) for name, split in counts if split and split["images"]]
    what = ("Points", report["num_points"]) if report.get("num_points") else ("Classes", len(report["classes"]))
    return [*tiles, (what[0], wording.count(what[1])), ("Skipped", wording.count(report["skipped_count"]))]


def _classes(report: dict[str, Any]) -> list[tuple[int, str, str, str]]:
    """Number, name, and images in train and test."""
    train, test = (report["splits"][split].get("per_class", {}) for split in ("train", "test"))
    return [
        (number, name, wording.count(train.get(name, 0)), wording.count(test.get(name, 0)))
        for number, name in enumerate(report["classes"])
    ]


def _duplicates(report: dict[str, Any]) -> dict[str, Any] | None:
    """Sentences and the listed pairs; None of a data set in which nobody has looked for them."""
    found = report.get("duplicates")
    if found is None:
        return None
    train, test = found["train"], found["test"]
    sentences = [
        f"{test['near']:,} of {test['searched']:,} test images ({wording.percent(test['share'])}) are in train too, "
        f"{test['exact']:,} of them equal, the others nearly so.",
        f"{train['exact']:,} train images are equal to earlier ones; {train['conflicting']:,} have equals with "
        "another label.",
    ]
    across = [
        (pair["test"], pair["train"], f"{1 - pair['distance']:.4f}", _named(pair, report)) for pair in test["pairs"]
    ]
    within = [(pair["train"], pair["earlier"], _named(pair, report)) for pair in train["pairs"]]
    return {"sentences": sentences, "across": across, "within": within, "num_more": test["near"] - len(across)}


def _named(pair: dict[str, Any], report: dict[str, Any]) -> str:
    """The classes of both; one name where they are of the same."""
    names = [report["classes"][label] for label in pair.get("labels", [])]
    return " / ".join(dict.fromkeys(names))
