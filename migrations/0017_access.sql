-- A worker is somebody: it has a credential of its own. Tokens end. Who changed what is written down.
ALTER TABLE tokens
    DROP CONSTRAINT tokens_role_check,
    ADD COLUMN expires_at timestamptz,
    ADD COLUMN uses_left integer CHECK (uses_left >= 0),
    ADD COLUMN worker_id uuid REFERENCES workers ON DELETE CASCADE,
    ADD COLUMN revoked_at timestamptz;
UPDATE tokens SET role = 'enrol', expires_at = now() + interval '90 days', uses_left = 1000 WHERE role = 'worker';
ALTER TABLE tokens
    ADD CONSTRAINT tokens_role_check CHECK (role IN ('viewer', 'user', 'admin', 'worker', 'enrol')),
    ADD CONSTRAINT tokens_worker_check CHECK ((role = 'worker') = (worker_id IS NOT NULL)),
    ADD CONSTRAINT tokens_uses_check CHECK (uses_left IS NULL OR role = 'enrol');
CREATE INDEX tokens_worker ON tokens (worker_id) WHERE worker_id IS NOT NULL;
COMMENT ON COLUMN tokens.expires_at IS 'not accepted from then on; null for never';
COMMENT ON COLUMN tokens.uses_left IS 'workers that may still enrol with it; null for any number';
COMMENT ON COLUMN tokens.worker_id IS 'the worker whose credential it is';
COMMENT ON COLUMN tokens.revoked_at IS 'taken back then; the row stays for a while, so that its holder hears why';
COMMENT ON INDEX tokens_worker IS 'the credentials of a worker';

ALTER TABLE corpora ADD COLUMN owner text NOT NULL DEFAULT '';
COMMENT ON COLUMN corpora.owner IS 'name of the token that registered it; empty for those registered before there were owners';

CREATE TABLE audit (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    token_id uuid NOT NULL,
    who text NOT NULL,
    role text NOT NULL,
    operation text NOT NULL,
    target text NOT NULL,
    status smallint,
    before jsonb NOT NULL DEFAULT '{}',
    after jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX audit_target ON audit (target, id);
COMMENT ON TABLE audit IS 'every change that people asked for: written before it is done, completed with its outcome';
COMMENT ON COLUMN audit.id IS 'identity, in the order of the requests';
COMMENT ON COLUMN audit.at IS 'when it was asked';
COMMENT ON COLUMN audit.token_id IS 'the token that asked; it may be gone';
COMMENT ON COLUMN audit.who IS 'its name then';
COMMENT ON COLUMN audit.role IS 'its role then';
COMMENT ON COLUMN audit.operation IS 'method and path of the operation';
COMMENT ON COLUMN audit.target IS 'what it was about: an id or a name; of what was made, its id; empty for nothing';
COMMENT ON COLUMN audit.status IS 'HTTP status answered; null when no answer was given';
COMMENT ON COLUMN audit.before IS 'the values that changed, before';
COMMENT ON COLUMN audit.after IS 'the values that changed, after';
COMMENT ON INDEX audit_target IS 'the history of one thing';
