"""The command line: one file a group of commands, `main` brings them together. Heavy imports stand inside the commands."""
