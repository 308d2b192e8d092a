-- How much of the source's quota, and of a poll's time, a backfill may take. Software of an older revision does not know it and
-- reads a backfill as it reads any gap.

ALTER TABLE alertwell.stream ADD COLUMN gap_share double precision CHECK (gap_share > 0 AND gap_share <= 1);
COMMENT ON COLUMN alertwell.stream.gap_share IS
    'What reading gaps inside backfill may take of the source''s quota and of a place for polls, 0 to 1; null is the default.';

UPDATE alertwell.schema_version SET revision = 8;
