"""Files that appear whole or not at all, and stores of many sequences in shards."""
