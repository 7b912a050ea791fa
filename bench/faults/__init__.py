"""Faults on purpose: processes killed at random moments under load, and a count of what that lost: it must be nothing."""
