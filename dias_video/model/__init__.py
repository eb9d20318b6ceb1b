"""The method, bottom up, with the paper's equation numbers; ``dias.py`` puts it together."""
