"""The specialized vision module and its high-level features."""
