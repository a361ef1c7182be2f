"""After an incident: the dump, the cause, the report, the replay."""
