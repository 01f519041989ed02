"""The long trials: `make soak`. A short form of each runs with the tests."""
