"""The training process: claim, train, record, finish."""
