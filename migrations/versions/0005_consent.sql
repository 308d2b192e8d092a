-- Who did what to tenants, and invitations: a tenant's consent from the link to the proof.

----------------------------------------------------------------------------------------------------------------------
-- The audit. Rows come and stay: a purged tenant's too. tenant_name is the name that it had then.

CREATE TABLE alertwell.audit (
    audit_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor text NOT NULL CHECK (actor <> ''),
    action text NOT NULL CHECK (action <> ''),
    tenant_id uuid,
    tenant_name text,
    detail jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(detail) = 'object')
);
CREATE INDEX audit_by_tenant ON alertwell.audit (tenant_id, at);

CREATE FUNCTION alertwell.refuse_change() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION 'alertwell.audit is append-only: % is refused', TG_OP USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON alertwell.audit
FOR EACH STATEMENT EXECUTE FUNCTION alertwell.refuse_change();
-- Also under session_replication_role = replica, which switches ordinary triggers off.
ALTER TABLE alertwell.audit ENABLE ALWAYS TRIGGER append_only;

CREATE VIEW soc.audit WITH (security_barrier) AS
SELECT a.audit_id, a.at, a.actor, a.action, a.tenant_id, a.tenant_name, a.detail
FROM alertwell.audit a
WHERE (SELECT everything FROM alertwell.reader_scope)
   OR EXISTS (SELECT FROM alertwell.reader r WHERE r.role = current_user AND r.tenant_id = a.tenant_id);
COMMENT ON VIEW soc.audit IS 'Who did what to which tenant, and when; append-only. A purged tenant''s rows stay.';
COMMENT ON COLUMN soc.audit.tenant_name IS 'The name that it had then.';

----------------------------------------------------------------------------------------------------------------------
-- Invitations. No foreign key: an invitation can be older than its tenant's row. Locked before the tenant's row.

CREATE TABLE alertwell.invitation (
    invitation_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id uuid,
    name text NOT NULL CHECK (name <> ''),
    cloud text NOT NULL,
    region text,
    sources text[] NOT NULL CHECK (cardinality(sources) > 0),
    labels jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(labels) = 'object'),
    external_ref text,
    form text NOT NULL CHECK (form IN ('v2', 'v1', 'plain', 'legacy')),
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text NOT NULL,
    expires_at timestamptz NOT NULL,
    state text NOT NULL DEFAULT 'open'
        CHECK (state IN ('open', 'given', 'proven', 'refused', 'expired', 'withdrawn')),
    state_reason text,
    answers integer NOT NULL DEFAULT 0,
    said_tenant uuid,
    used_at timestamptz,
    proofs integer NOT NULL DEFAULT 0,
    next_proof_at timestamptz,
    prover uuid,
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN alertwell.invitation.tenant_id IS 'Who is invited, null where anyone is; once proven, who it was.';
COMMENT ON COLUMN alertwell.invitation.answers IS 'How often the callback was reached with its state.';
COMMENT ON COLUMN alertwell.invitation.said_tenant IS 'Who consented, as the callback said: not believed before it is proven.';
COMMENT ON COLUMN alertwell.invitation.prover IS 'The replica that proves it now; where that is dead, any other may.';
CREATE INDEX invitation_to_prove ON alertwell.invitation (next_proof_at) WHERE state = 'given';
CREATE INDEX invitation_open ON alertwell.invitation (lower(name)) WHERE state IN ('open', 'given', 'refused', 'expired');
CREATE INDEX invitation_by_tenant ON alertwell.invitation (tenant_id);

CREATE VIEW soc.invitations WITH (security_barrier) AS
SELECT i.invitation_id,
       i.name,
       i.tenant_id,
       i.cloud,
       i.region,
       i.sources,
       CASE WHEN i.state IN ('open', 'refused') AND i.expires_at <= statement_timestamp() THEN 'expired' ELSE i.state END
           AS state,
       i.state_reason,
       i.created_at,
       i.created_by,
       i.expires_at,
       i.used_at,
       i.proofs,
       i.labels,
       i.external_ref
FROM alertwell.invitation i
WHERE (SELECT everything FROM alertwell.reader_scope)
   OR EXISTS (SELECT FROM alertwell.reader r WHERE r.role = current_user AND r.tenant_id = i.tenant_id);
COMMENT ON VIEW soc.invitations IS 'Customers who were asked for consent, and how far each has come.';
COMMENT ON COLUMN soc.invitations.state IS 'open, given (not proven yet), proven, refused, expired or withdrawn.';

UPDATE alertwell.schema_version SET revision = 5;
