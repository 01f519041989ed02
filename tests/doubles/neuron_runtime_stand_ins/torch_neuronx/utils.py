"""A stand-in: the device that groups are laid out for."""


def get_platform_target() -> str:
    """The first generation, whose tensor groups of 4 are laid out in their own way."""
    return "trn1"
