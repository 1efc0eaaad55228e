"""What the API and the worker share."""
