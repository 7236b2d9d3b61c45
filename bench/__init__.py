"""cardferry measured against plain ssh forwarding, side by side on computers of the test lab.

`python -m bench` compares how long things take; `docs/performance.md` holds a run's figures and says how to read them.
"""
