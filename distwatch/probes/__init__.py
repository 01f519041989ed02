"""Read-only looks from outside: process, stacks, exits, host, devices. They touch nothing of the job."""
