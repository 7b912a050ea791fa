"""Allocation policies: from what is known of the arms to the weights of the next epoch."""
