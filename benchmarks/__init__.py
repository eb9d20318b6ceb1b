"""What speed costs and where it ends: ``scripts/benchmark.py`` runs every section of this folder.

A section is a module with ``run(bench: Bench) -> list[Row]``; ``python -m benchmarks <section>`` prints one on its own.
"""
