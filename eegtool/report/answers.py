"""The reader of answers by the name it had before: scripts of users import it from here."""

from eegtool.core.answers import Reading, read_stage

__all__ = ["Reading", "read_stage"]
