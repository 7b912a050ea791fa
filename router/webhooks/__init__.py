"""Effects outside: gates are asked and messages are told over HTTP, signed, only where the operator allows it."""
