"""What was seen of a run, in the form that checks need: no finding comes from here."""
