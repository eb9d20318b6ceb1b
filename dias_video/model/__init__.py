"""The parts of the method, with the paper's equation numbers; ``dias.py`` puts them together."""
