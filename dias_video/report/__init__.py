"""A self-contained page that shows results: ``video.py`` collects, ``page.py`` writes, ``page.*`` are the page."""
