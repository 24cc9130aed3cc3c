"""What every step shares: stages, records, workspace, settings, errors. Knows no MNE, no torch, no step."""
