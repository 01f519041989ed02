"""One rank that runs a documented block of Python: `run_block.py FILE`.

What an expression followed by `# → value` gives goes to rank 0's output, beside what is shown.
"""

from __future__ import annotations

import ast
import json
import os
import sys
from pathlib import Path
from typing import Any

os.chdir(os.environ["TEST_FOLDER"])
code = Path(sys.argv[1]).read_text(encoding="utf-8")
names: dict[str, Any] = {"__name__": "__main__"}
exec("import distwatch", names)
for statement in ast.parse(code).body:
    shown = code.splitlines()[(statement.end_lineno or 1) - 1].partition("# → ")[2]
    if shown and isinstance(statement, ast.Expr):
        value = eval(compile(ast.Expression(statement.value), sys.argv[1], "eval"), names)
        if os.environ.get("RANK", "0") == "0":
            print(json.dumps([shown, repr(value)]), flush=True)
    else:
        exec(compile(ast.Module([statement], []), sys.argv[1], "exec"), names)
