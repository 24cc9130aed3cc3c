"""Raw EEG recordings to pictures, questions and a table of epochs."""
