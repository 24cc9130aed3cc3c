"""Answers in: files read line by line, joined with what the workspace knows, laid out in time."""
