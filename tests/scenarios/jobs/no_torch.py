"""Never imports torch: distwatch must cost next to nothing and change nothing."""

import distwatch.auto  # noqa: F401, I001
import sys

heavy = sorted(name for name in ("torch", "textual", "psutil", "rich") if name in sys.modules)
print(f"result {heavy}")
