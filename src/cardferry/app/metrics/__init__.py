"""What the host tells Prometheus: `registry` has the numbers, however they are served; `endpoint` serves them.

The extra ``server`` brings what it needs, and nothing else imports that.
"""
