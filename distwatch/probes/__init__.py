"""Read-only looks from outside: process, stacks, exits, host, devices, and who belongs to a job."""
