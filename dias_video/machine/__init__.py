"""The machine of a run: its processes, threads and number formats. It imports no other package of the project."""
