"""One self-contained page to look at what a run found: ``video.py`` gathers, ``page.py`` writes, ``page.*`` show."""
