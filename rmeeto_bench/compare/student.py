"""Student's t for a change between two programs: one number or an array of numbers, so that simulations use the same rule.

A change is signed so that negative is worse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtr, stdtrit

NOTHING = 1e-12  # a relative spread below this is rounding: the values are the same


@dataclass(frozen=True)
class Student:
    """A change with what is known about its error. Each field is a float or an array of one shape."""

    value: Any  # the change: a difference of logarithms, or points
    error: Any  # its standard error, in the same unit; 0 where chance has no part
    degrees: Any  # degrees of freedom of the error

    def p_worse(self, margin: Any) -> Any:
        """Of the hypothesis that the change is no worse than -margin. 0 or 1 where chance has no part."""
        error = np.asarray(self.error, float)
        distance = np.asarray(self.value, float) + margin
        by_chance = stdtr(self.degrees, distance / np.where(error > 0, error, 1.0))
        return np.where(error > 0, by_chance, np.where(distance < 0, 0.0, 1.0))[()]

    def p_different(self) -> Any:
        """Two-sided, of the hypothesis that there is no change."""
        worse = self.p_worse(0.0)
        return np.where(np.asarray(self.error) > 0, 2 * np.minimum(worse, 1 - worse), np.asarray(self.value) == 0)[()]

    def bounds(self, alpha: float) -> tuple[Any, Any]:
        """The two one-sided bounds."""
        half = stdtrit(self.degrees, 1 - alpha) * np.asarray(self.error, float)
        return self.value - half, self.value + half


def mean_of(values: ArrayLike) -> Student:
    """The mean over the last axis."""
    found = np.asarray(values, float)
    error = found.std(-1, ddof=1) / np.sqrt(found.shape[-1])
    return Student(found.mean(-1)[()], np.where(error > NOTHING, error, 0.0)[()], float(found.shape[-1] - 1))


def welch(base: Student, head: Student) -> Student:
    """Head minus base, of two means that share nothing, with the degrees of freedom of Welch and Satterthwaite."""
    first, second = np.square(base.error), np.square(head.error)
    total = first + second
    parts = np.square(first) / base.degrees + np.square(second) / head.degrees
    degrees = np.where(total > 0, np.square(total) / np.where(parts > 0, parts, 1.0), base.degrees + head.degrees)
    return Student(head.value - base.value, np.sqrt(total)[()], degrees[()])
