-- Every kind of credential as a tenant's or a stream's own. Software of an older revision goes on with secrets; what is to become
-- of it when the first credential of another kind is stored, store/credentials.py says.

ALTER TABLE alertwell.credential
    DROP CONSTRAINT credential_kind_check,
    ADD CONSTRAINT credential_kind_check CHECK (kind IN ('client_secret', 'certificate', 'federated', 'delegated'));

-- A version is given once, among all credentials there ever were: it names a credential also after another one was cleared, and
-- also once the same one was sealed anew. Those that are stored have small versions, each its own within its tenant.
CREATE SEQUENCE alertwell.credential_version AS integer START WITH 1000000;
ALTER TABLE alertwell.credential ALTER COLUMN version SET DEFAULT nextval('alertwell.credential_version');

COMMENT ON COLUMN alertwell.credential.source IS 'Whose: a source of the tenant, or empty for all that have none of their own.';
COMMENT ON COLUMN alertwell.credential.sealed IS
    'Sealed by a key of SEALING_KEYS_FILE: the secret, the certificate with its key (PEM), the refresh token. Empty where federated.';
COMMENT ON COLUMN alertwell.credential.version IS 'Another one with each other credential; sealing the same anew keeps it.';
COMMENT ON COLUMN alertwell.credential.expires_at IS 'Its end: a certificate''s own, a secret''s where somebody has stated it.';
CREATE INDEX credential_by_end ON alertwell.credential (expires_at) WHERE expires_at IS NOT NULL;

UPDATE alertwell.schema_version SET revision = 7;
