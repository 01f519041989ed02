"""A contract double of neuronx-distributed, written for these tests from what its releases do.

It holds none of their code. TEST_NXD chooses the generation of the interface; the real source tree
is run where DISTWATCH_NXD_SRC names a checkout of it.
"""

import os

__version__ = os.environ.get("TEST_NXD", "0.18")
