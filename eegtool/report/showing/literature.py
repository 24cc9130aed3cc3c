"""Published figures to be read beside one's own: none of them was measured here."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_FILE: Final = Path(__file__).with_name("literature.csv")


@dataclass(frozen=True, slots=True)
class Published:
    """One published result and the protocol it was got under, as far as that is known.

    Attributes
    ----------
    work, data, input, protocol, unit : str
        Who, on which data, from which signal, split how, and whether figures are pooled over epochs.
    accuracy, macro_f1, kappa : str
        As published, as parts of 1; empty where they are not.
    source : str
        Where the figures were read: the authors' own pages, or second-hand.
    same_as : str
        The protocol by its name in ``prepare --protocol``; empty where it is none of these.
    """

    work: str
    data: str
    input: str
    protocol: str
    unit: str
    accuracy: str
    macro_f1: str
    kappa: str
    source: str
    same_as: str


def published(protocol: str) -> list[Published]:
    """Return the published results under a protocol of this name, of the table that comes with the package."""
    with _FILE.open(encoding="utf-8", newline="") as file:
        return [p for row in csv.DictReader(file) if (p := Published(**row)).same_as == protocol]
