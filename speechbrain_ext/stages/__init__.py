"""The engine behind every ``run.sh``: what is up to date, what runs, and why.

A recipe's ``run.sh`` parses its options and declares its stages; everything that has
to be right under Ctrl-C, ``kill -9`` and a changed file is decided here:

- `plan` reads the declared stages and chooses those that were asked for;
- `fingerprint` names the content of files and folders, fast the second time;
- `record` remembers a finished stage and says why it has to run again;
- `memory` remembers the options of an experiment that stages succeeded with;
- `process` runs one command, shows it live, logs it and hands on Ctrl-C;
- `engine` puts them together.

Nothing here imports torch: a skipped stage costs milliseconds.
"""
