"""Why the job hangs: `RunState` in, findings out. Pure: no I/O, no clock of its own.

`facts` is what is seen, `checks` find what is wrong (one folder or file a family), and `verdict` orders
what they find so that the root comes first and nobody who only suffers is blamed: `verdict.diagnose`.
"""
