"""stage: recordings in, scored nights out."""
