"""A teacher as a folder of Hugging Face's form: its config read by our own hand, its weights renamed. No torch.

A config is data here and nothing else: it is compared with tables, and no class, module or program that it names is
ever looked for. Formats: https://huggingface.co/docs/transformers/main_classes/configuration and
https://huggingface.co/docs/timm/hf_hub.
"""

from distill.model_folders.contents import (
    CONFIG,
    IMAGES,
    INDEX,
    MAX_BYTES,
    NEEDED,
    SAVE_SAFELY,
    SINGLE,
    Contents,
    find,
    parse_json,
    shards_of,
)
from distill.model_folders.description import Description
from distill.model_folders.matching import Matched, match, options_in, report
from distill.model_folders.reading import check_config, describe
from distill.model_folders.weights import Outline, join, outline_of, outline_of_files

__all__ = [
    "CONFIG",
    "IMAGES",
    "INDEX",
    "MAX_BYTES",
    "NEEDED",
    "SAVE_SAFELY",
    "SINGLE",
    "Contents",
    "Description",
    "Matched",
    "Outline",
    "check_config",
    "describe",
    "find",
    "join",
    "match",
    "options_in",
    "outline_of",
    "outline_of_files",
    "parse_json",
    "report",
    "shards_of",
]
