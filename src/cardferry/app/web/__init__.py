"""The host's web page: readers and who has them, guests, the audit, and the questions for the person at the host.

`server` runs it in the agent's event loop, `routes` has what can be asked for, `checks` what each request must pass,
`signing_in` who may ask, `live` the one look at the agent for all viewers, `view` the tables, `questions` the way to
ask the person. Needs what comes with ``cardferry[server]``; nothing of it is loaded without ``--web``.
"""
