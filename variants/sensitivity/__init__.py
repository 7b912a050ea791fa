"""Which layer costs how much: every linear layer of a reduced graph switched on alone, and what follows from it."""
