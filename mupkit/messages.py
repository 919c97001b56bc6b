"""An error and a warning that say what is wrong and how to fix it, each in a field of its own."""

from __future__ import annotations


class MupWarning(UserWarning):
    """A parametrization or an optimizer looks wrong.

    Attributes:
        what: what looks wrong.
        fix: what to do about it.
    """

    def __init__(self, what: str, fix: str):
        super().__init__(what, fix)
        self.what, self.fix = what, fix

    def __str__(self) -> str:
        return f"{self.what}. {self.fix}"


class RatioError(ValueError):
    """The learning rates of an optimizer's groups have lost the ratio that µP gives them.

    Attributes:
        what: which groups, and their rates.
        fix: what to do about it.
    """

    def __init__(self, what: str, fix: str):
        super().__init__(what, fix)
        self.what, self.fix = what, fix

    def __str__(self) -> str:
        return f"{self.what}. {self.fix}"
