"""The control service: the store's verbs over gRPC, for people and programs that cannot reach the database."""
