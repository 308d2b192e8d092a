-- What was kept of rejects on the newest day that brought any. Software of an older revision keeps all of them, and counts none.

ALTER TABLE alertwell.stream_progress
    ADD COLUMN rejects_day date,
    ADD COLUMN rejects_kept integer NOT NULL DEFAULT 0,
    ADD COLUMN rejects_bytes bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN alertwell.stream_progress.rejects_day IS 'The day (UTC) that rejects_kept and rejects_bytes are of.';

UPDATE alertwell.schema_version SET revision = 11;
