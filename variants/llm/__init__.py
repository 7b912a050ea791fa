"""Language models: from a GGUF file to variants that generate text token by token."""
