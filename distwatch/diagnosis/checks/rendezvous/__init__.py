"""rendezvous.*: ranks that do not come together."""
