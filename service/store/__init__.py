"""The only runtime SQL: one file a table or a thing done to tables."""
