"""What is seen of a run, put so that checks can ask of it: no finding comes from here."""
