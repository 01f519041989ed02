"""Why the job hangs: `RunState` in, findings out. Pure: no I/O, no clock of its own.

`facts` answers questions about what was seen, `checks` find what is wrong (one folder or file for each
family), and `verdict` orders the findings: the root comes first, and no victim is blamed (`verdict.diagnose`).
"""
