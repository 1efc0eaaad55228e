"""What a user touches: the client and the `limbeck` command."""

from limbeck.client import Client
from limbeck.errors import ApiError, DownloadError, InputRejected, LimbeckError, Unreachable

__all__ = ["ApiError", "Client", "DownloadError", "InputRejected", "LimbeckError", "Unreachable"]
