"""A loaded model: asked in words, scored in one pass, calibrated."""
