-- What keeps its speed with millions of alerts. Software of older revisions works on it as before.

-- A block range's summary never shrinks: once retention has freed a block and new rows are written into it, the range stands for
-- both ends of time, and after one retention period each question for the oldest reads the whole table.
CREATE INDEX alert_newest_of_all ON alertwell.alert (last_processed_at);
DROP INDEX alertwell.alert_by_time;
CREATE INDEX incident_newest_of_all ON alertwell.incident (last_update);
DROP INDEX alertwell.incident_by_time;
DROP INDEX alertwell.poll_started;
CREATE INDEX poll_started ON alertwell.poll (started_at);

-- Entries of one device share their key, so it is small.
CREATE INDEX alert_by_device ON alertwell.alert (tenant_id, device_name) WHERE device_name IS NOT NULL;

-- A day of 400 that retention removes would wait for 80 others until the server looks after a fifth of the table.
ALTER TABLE alertwell.alert SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE alertwell.alert_merged SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE alertwell.alert_change SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE alertwell.feed SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE alertwell.poll SET (autovacuum_vacuum_scale_factor = 0.02);

-- The newest from an index, as it is for merged alerts since 0012: each branch of the wall is ordered by itself, the first 4 tenants of
-- a reader have one each, and a LIMIT ends them all. A branch is a barrier of its own.
CREATE OR REPLACE VIEW alertwell.alert_for_all WITH (security_barrier) AS
SELECT a.* FROM alertwell.alert_with_tenant a
WHERE (SELECT everything FROM alertwell.reader_scope)
ORDER BY a.last_processed_at DESC;

DO $$
DECLARE
    branches text := 'SELECT * FROM alertwell.alert_for_all';
BEGIN
    FOR place IN 0..3 LOOP
        EXECUTE format($view$
            CREATE VIEW alertwell.alert_for_some_%s WITH (security_barrier) AS
            SELECT a.* FROM alertwell.alert_with_tenant a
            WHERE a.tenant_id = (SELECT r.tenant_id FROM alertwell.reader r
                                 WHERE r.role = current_user AND NOT (SELECT everything FROM alertwell.reader_scope)
                                 ORDER BY r.tenant_id OFFSET %s LIMIT 1)
            ORDER BY a.last_processed_at DESC
            $view$, place, place);
        branches := branches || format(' UNION ALL SELECT * FROM alertwell.alert_for_some_%s', place);
    END LOOP;
    EXECUTE 'CREATE OR REPLACE VIEW alertwell.readable_alert WITH (security_barrier) AS ' || branches
            || ' UNION ALL SELECT * FROM alertwell.alert_for_some';
END
$$;

CREATE OR REPLACE VIEW alertwell.alert_for_some WITH (security_barrier) AS
SELECT a.* FROM alertwell.alert_with_tenant a
WHERE (SELECT count(*) > 4 AND NOT (SELECT everything FROM alertwell.reader_scope)
       FROM alertwell.reader r WHERE r.role = current_user)
  AND EXISTS (SELECT FROM alertwell.reader r
              WHERE r.role = current_user AND r.tenant_id = a.tenant_id
                AND r.tenant_id > (SELECT l.tenant_id FROM alertwell.reader l WHERE l.role = current_user
                                   ORDER BY l.tenant_id OFFSET 3 LIMIT 1) OFFSET 0)
ORDER BY a.last_processed_at DESC;

UPDATE alertwell.schema_version SET revision = 14;
