"""Measurements against a peer, in one process and in turns; never timed tests.

``python -m benchmarks`` runs all that ``__main__`` names; ``python -m benchmarks.NAME --json`` runs one and
prints one JSON object. Ratios are named ``..._ratio`` and are above 1 where we are ahead.
"""
