"""Models with a recorded configuration: saving them, and building them again from a folder or from the Hub."""
