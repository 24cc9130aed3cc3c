"""x"""

from typing import Any


def certainty(a: Any) -> float:
    return 0.0


def write_results(*a: Any) -> dict[str, Any]:
    return {}
