"""What is kept: the journal, the database behind one port, and the experiment document."""
