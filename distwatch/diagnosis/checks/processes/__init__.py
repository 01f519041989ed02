"""process.*: ranks that ended, or that live and do not go on."""
