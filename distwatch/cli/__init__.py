"""The command line: one file for each command, imported when it is called. stdout is data, stderr is talk."""
