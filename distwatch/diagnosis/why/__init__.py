"""Why ranks part: the line of the person's code at which they take two ways, and what decides it."""
