"""Settings that were published together with what they reached, and what ``auto`` becomes near them. Free of torch."""

from distill.recipes.bases import BASES, CIFAR, IMAGENET, SMALL_DATA, Base, milestones, nearest
from distill.recipes.book import catalog, complete, find, ids
from distill.recipes.recipe import Data, Recipe

__all__ = [
    "BASES",
    "CIFAR",
    "IMAGENET",
    "SMALL_DATA",
    "Base",
    "Data",
    "Recipe",
    "catalog",
    "complete",
    "find",
    "ids",
    "milestones",
    "nearest",
]
