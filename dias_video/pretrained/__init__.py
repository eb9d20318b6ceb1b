"""Models that know their configuration: saved, found again in a folder or on the Hub, and rebuilt."""
