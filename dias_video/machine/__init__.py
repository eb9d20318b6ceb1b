"""What a run has of its machine: processes that agree, threads, number formats. Knows no other room."""
