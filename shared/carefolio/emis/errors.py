"""What is wrong with an extract, with the place and never with what stands there."""

from __future__ import annotations


class ExtractError(Exception):
    """``place`` is a file's table, with row and column where they are known; ``reason`` is for an operator."""

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(f"{place}: {reason}")
        self.place, self.reason = place, reason
