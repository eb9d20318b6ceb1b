"""Contact readouts, one file for each form; ``readout.py`` says what they share."""
