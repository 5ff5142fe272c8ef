-- A checkpoint is announced before its bytes are written and stays as history when they are gone.
ALTER TABLE checkpoints ADD COLUMN state text NOT NULL DEFAULT 'committed'
    CHECK (state IN ('pending', 'committed', 'deleting', 'deleted'));
ALTER TABLE checkpoints ALTER COLUMN state DROP DEFAULT;
ALTER TABLE checkpoints ALTER COLUMN manifest_sha256 DROP NOT NULL, ALTER COLUMN meta DROP NOT NULL;
ALTER TABLE checkpoints
    ADD CHECK ((manifest_sha256 IS NULL) = (meta IS NULL)),
    ADD CHECK (state <> 'pending' OR manifest_sha256 IS NULL),
    ADD CHECK (state NOT IN ('committed', 'deleted') OR manifest_sha256 IS NOT NULL),
    ADD CHECK (manifest_sha256 IS NOT NULL OR (verified_at IS NULL AND problem IS NULL));
COMMENT ON TABLE checkpoints IS 'checkpoints; the latest is a query over the committed ones, never a pointer';
COMMENT ON COLUMN checkpoints.state IS 'pending: announced, its bytes on their way; committed: whole, to be used; deleting: its bytes are to go; deleted: history';
COMMENT ON COLUMN checkpoints.manifest_sha256 IS 'SHA-256 of manifest.json; null before the commit';
COMMENT ON COLUMN checkpoints.meta IS 'CheckpointMeta; null before the commit';
COMMENT ON COLUMN checkpoints.created_at IS 'when it was committed, or announced where it is not';
DROP INDEX checkpoints_verified, checkpoints_branch;
CREATE INDEX checkpoints_verified ON checkpoints (verified_at NULLS FIRST, created_at) WHERE problem IS NULL AND state = 'committed';
COMMENT ON INDEX checkpoints_verified IS 'which one to read next';
CREATE INDEX checkpoints_branch ON checkpoints (branch_id, created_at) WHERE state = 'committed';
COMMENT ON INDEX checkpoints_branch IS 'the last checkpoint of a branch';
CREATE INDEX checkpoints_unsettled ON checkpoints (state, created_at) WHERE state IN ('pending', 'deleting');
COMMENT ON INDEX checkpoints_unsettled IS 'the few that the retain and sweep loops look at';
