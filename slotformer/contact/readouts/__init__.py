"""Contact readouts, one file for each form; ``readout.py`` has what they share."""
