"""A teacher as a folder of Hugging Face's form: its ``config.json`` read by our own hand, its weights renamed. No torch.

A config is data here and nothing else: it is compared with tables, and no class, module or program that it names is
ever looked for. Formats: https://huggingface.co/docs/transformers/main_classes/configuration and
https://huggingface.co/docs/timm/hf_hub.
"""

from distill.model_folders.contents import Contents, find, is_model_folder
from distill.model_folders.description import Description
from distill.model_folders.matching import Matched, match
from distill.model_folders.reading import describe
from distill.model_folders.weights import Outline, join, outline_of, outline_of_files

__all__ = [
    "Contents",
    "Description",
    "Matched",
    "Outline",
    "describe",
    "find",
    "is_model_folder",
    "join",
    "match",
    "outline_of",
    "outline_of_files",
]
