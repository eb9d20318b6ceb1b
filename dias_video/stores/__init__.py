"""Files that appear when they are complete or not at all, and stores of many sequences in shards."""
