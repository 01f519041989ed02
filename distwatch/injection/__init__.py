"""`distwatch attach --inject`: brings the agent into a job that runs without it. Only when a person asks."""
