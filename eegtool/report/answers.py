"""The reader of answers under its former name, which scripts of users import."""

from eegtool.core.answers import read_stage

__all__ = ["read_stage"]
