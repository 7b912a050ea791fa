"""Who calls, what they may do, and how much of it: in front of the services, whatever the wire."""
