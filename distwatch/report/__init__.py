"""Reports: a state and its findings as JSON, Markdown and one HTML file. Never computes a diagnosis."""
