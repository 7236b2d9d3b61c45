"""The PIN at the host: the pinpad that a reader seems to have, where its PINs come from, and how a person is asked.

- `entry` reads what a program asks a pinpad for (PC/SC part 10), `typed` makes the command of it;
- `secret` reads a PIN that is kept for machines without a person;
- `person` asks one: by `pinentry`, on a `terminal`, with a `notification`, through `ask_password`; `program` is what is
  started for a question.
"""
